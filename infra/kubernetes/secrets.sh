#!/bin/sh
# Prints the Secrets that base asks for, from the files that ../make-secrets.sh made:
#   ./secrets.sh FOLDER | kubectl apply -f -        MLFLOW_USER: who workers are to MLflow, else admin
# Needs kubectl, and no cluster. Values go from the files into the text, and never onto a command line.
set -eu
folder=${1:?name the folder that make-secrets.sh made}

# secret NAMESPACE NAME KEY=FILE... (and options of kubectl)
secret() {
	space=$1
	name=$2
	shift 2
	for pair in "$@"; do
		case $pair in --*) shift && set -- "$@" "$pair" && continue ;; esac
		file=$folder/${pair#*=}
		[ -s "$file" ] || {
			echo "secrets.sh: $file is missing or empty; it must hold ${pair%%=*}" >&2
			exit 2
		}
		shift
		set -- "$@" "--from-file=${pair%%=*}=$file"
	done
	echo "---"
	kubectl create secret generic "$name" --namespace "$space" --dry-run=client --output yaml "$@"
}

secret trimtab prefect-secrets \
	PREFECT_SERVER_ENCRYPTION_KEY=prefect_encryption_key \
	PREFECT_SERVER_API_AUTH_STRING=prefect_auth_string \
	PREFECT_API_AUTH_STRING=prefect_auth_string \
	PREFECT_SERVER_DATABASE_PASSWORD=prefect_database_password \
	PREFECT_REDIS_MESSAGING_URL=redis_url \
	PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL=redis_url \
	PREFECT_SERVER_DOCKET_URL=docket_url
secret trimtab mlflow-secrets \
	PGPASSWORD=mlflow_database_password \
	MLFLOW_AUTH_ADMIN_PASSWORD=mlflow_admin_password \
	MLFLOW_FLASK_SERVER_SECRET_KEY=mlflow_session_key \
	AWS_ACCESS_KEY_ID=s3_access_key_id \
	AWS_SECRET_ACCESS_KEY=s3_secret_access_key
for space in trimtab trimtab-workers; do
	secret "$space" client-secrets \
		PREFECT_API_AUTH_STRING=prefect_auth_string \
		--from-literal="MLFLOW_TRACKING_USERNAME=${MLFLOW_USER:-admin}" \
		MLFLOW_TRACKING_PASSWORD=mlflow_admin_password
done
