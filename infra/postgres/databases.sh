#!/bin/sh
# Run once by the postgres image, when its data folder is empty: one user and database for Prefect, one user and two
# databases for MLflow. Passwords come from files, and reach psql on its standard input only.
set -eu
prefect=$(cat /run/secrets/prefect_database_password)
mlflow=$(cat /run/secrets/mlflow_database_password)
psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<SQL
CREATE ROLE prefect LOGIN PASSWORD '$prefect';
CREATE ROLE mlflow LOGIN PASSWORD '$mlflow';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT ON DATABASE prefect, mlflow, mlflow_auth FROM PUBLIC;
SQL
