"""Evaluation: tasks that the roles allow, intervals, the verdict, the report."""
