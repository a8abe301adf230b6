"""Reports: one HTML file with tables and plotly figures. It knows no run; sweeps and comparisons write with it."""
