"""Acting on decisions: automations on a Prefect server, policies as blocks, and orders of the business by webhook."""
