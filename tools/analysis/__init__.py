"""Parts of ``tools/gait_report.py``: contacts, strides, quantities, published norms, comparison and the page."""
