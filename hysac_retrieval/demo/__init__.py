"""Demonstration: index the example gallery, search it safely and as asked, write a report."""

from hysac_retrieval.demo.report import write_report
from hysac_retrieval.demo.run import QUERIES, DemoQuery, DemoResult, DemoSearch, gallery, run_demo

__all__ = ["QUERIES", "DemoQuery", "DemoResult", "DemoSearch", "gallery", "run_demo", "write_report"]
