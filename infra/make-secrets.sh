#!/bin/sh
# Makes the secrets of the compose stack: one file each in a folder that only you can enter. What is there is kept.
#   ./make-secrets.sh [FOLDER]        default: secrets, beside this script
# The keys of S3 are not made up: give them as S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY. REDIS is its host and port.
set -eu
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"

# keep NAME VALUE: written once. Readable for the user inside the containers; the folder keeps others out.
keep() {
	[ -s "$folder/$1" ] || {
		(umask 333 && printf '%s' "$2" >"$folder/$1.new" && mv "$folder/$1.new" "$folder/$1")
		echo "made $folder/$1"
	}
}
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

for name in postgres_password prefect_database_password mlflow_database_password redis_password \
	mlflow_admin_password mlflow_session_key; do
	keep "$name" "$(random)"
done
# 32 bytes, as Fernet wants them. Another key later, and no block can be read.
keep prefect_encryption_key "$(head -c 32 /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_')"
keep prefect_auth_string "trimtab:$(random)"
keep redis_url "redis://default:$(cat "$folder/redis_password")@${REDIS:-redis:6379}/0"
keep docket_url "redis://default:$(cat "$folder/redis_password")@${REDIS:-redis:6379}/1"
for name in s3_access_key_id:S3_ACCESS_KEY_ID s3_secret_access_key:S3_SECRET_ACCESS_KEY; do
	file=${name%%:*}
	variable=${name#*:}
	[ -s "$folder/$file" ] && continue
	eval "value=\${$variable:-}"
	[ -n "$value" ] || {
		echo "make-secrets: set $variable to the key of your bucket, or write it to $folder/$file" >&2
		exit 2
	}
	keep "$file" "$value"
done
