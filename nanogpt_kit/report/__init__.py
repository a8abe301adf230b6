"""Reports: one HTML file with tables and plotly figures. It does not depend on runs; sweeps and comparisons use it."""
