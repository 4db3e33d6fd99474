"""The demonstration: the example gallery indexed, searched safely and as asked, with a report to look at."""

from hysac_retrieval.demo.report import write_report
from hysac_retrieval.demo.run import QUERIES, DemoQuery, DemoResult, DemoSearch, gallery, run_demo

__all__ = ["QUERIES", "DemoQuery", "DemoResult", "DemoSearch", "gallery", "run_demo", "write_report"]
