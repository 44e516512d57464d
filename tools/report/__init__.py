"""Parts of ``tools/motion_report.py``: measuring clips, tables, plots, pictures and the page."""
