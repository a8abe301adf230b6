// Plotly draws with fixed sizes. Here a figure is as high as its legend requires, and in print as wide as the paper.
(() => {
  const PAPER = 1040; // CSS pixels of A4 landscape between its margins
  const FLAT = 0.85; // heights in print, where two figures of usual height fit on one page
  const ROW = 30; // CSS pixels for a legend of one row, which a figure's height includes
  const figures = [...document.querySelectorAll(".js-plotly-plot")];
  const heights = new Map(figures.map((figure) => [figure, figure.layout.height]));
  let isPrinting = false;

  function fitHeight(figure) {
    const legend = figure.querySelector(".legend .scrollbox");
    const rows = legend ? Math.round(legend.getBBox().height) : 0;
    const height = Math.round(heights.get(figure) * (isPrinting ? FLAT : 1)) + Math.max(0, rows - ROW);
    figure.style.height = figure.parentNode.style.height = `${height}px`;
    if (figure.layout.height !== height) Plotly.relayout(figure, { height, "legend.maxheight": rows + ROW });
    if (!isPrinting) delete figure.layout.width; // with a fixed width it would not follow the window
  }

  for (const figure of figures) {
    fitHeight(figure);
    figure.on("plotly_afterplot", () => isPrinting || fitHeight(figure));
  }
  addEventListener("beforeprint", () => {
    isPrinting = true;
    for (const figure of figures) {
      const most = Number(getComputedStyle(figure).getPropertyValue("--most")) || 1;
      Plotly.relayout(figure, { width: Math.floor((PAPER - 8 * (most - 1)) / most) });
      fitHeight(figure);
    }
  });
  addEventListener("afterprint", () => {
    isPrinting = false;
    for (const figure of figures) {
      Plotly.relayout(figure, { width: null, autosize: true });
      fitHeight(figure);
    }
  });
})();
