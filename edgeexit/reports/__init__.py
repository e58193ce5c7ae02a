"""Reports: one page about a bundle on labelled data, and Distiller's table of savings."""

from edgeexit.reports.savings import ExitSavings, Savings, savings

__all__ = ["ExitSavings", "Savings", "savings"]
