"""What a model will need and how fast it will run, from its headers and a look at the machine (`hobbit plan`)."""

from __future__ import annotations

from .predict import BudgetPlan, LoPlan, Plan, plan

__all__ = ["BudgetPlan", "LoPlan", "Plan", "plan"]
