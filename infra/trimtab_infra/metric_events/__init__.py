"""Metrics that anyone logs to MLflow become Prefect events: noticed by a server plugin, delivered by a sender.

MLflow server -> plugin -> outbox (files) -> sender -> ledger (SQLite) -> Prefect events
                                             reconciler (MLflow's REST API) -^
"""
