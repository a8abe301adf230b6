"""Reports: one HTML file with tables and plotly figures, and the pages of runs."""
