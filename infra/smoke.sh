#!/usr/bin/env bash
# Asks a running stack whether it is sound: one line a part, exit code 0 if all are, 1 if one is not, 2 for a wrong call.
#   infra/smoke.sh http://127.0.0.1:4200 http://127.0.0.1:5000 http://127.0.0.1:8333 redis://127.0.0.1:6379 postgresql://127.0.0.1:5432
# What an http address is (Prefect, MLflow or S3) is found out. PREFECT_API_AUTH_STRING, MLFLOW_TRACKING_USERNAME and
# MLFLOW_TRACKING_PASSWORD are used where they are set, CURL_CA_BUNDLE names the authority of https addresses if it is
# your own. Needs bash and curl; writes nothing anywhere.
set -uo pipefail
[ $# -gt 0 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
command -v curl >/dev/null || { echo "smoke.sh needs curl" >&2; exit 2; }
bad=0

say() { # verdict part text
  printf '%-5s %-10s %s\n' "$1" "$2" "$3"
  [ "$1" = ok ] || bad=1
}

# Secrets go to curl on its standard input: the list of processes is for everybody to read.
ask() { # user:password, then curl's arguments
  local login=$1; shift
  if [ -n "$login" ]; then
    login=${login//\\/\\\\}
    printf 'user = "%s"\n' "${login//\"/\\\"}" | curl -sS --noproxy '*' --max-time 5 -K - "$@" 2>&1
  else
    curl -sS --noproxy '*' --max-time 5 "$@" 2>&1
  fi
}

prefect_login=${PREFECT_API_AUTH_STRING:-}
mlflow_login=${MLFLOW_TRACKING_USERNAME:+$MLFLOW_TRACKING_USERNAME:${MLFLOW_TRACKING_PASSWORD:-}}

prefect() {
  local version handshake
  version=$(ask "$prefect_login" -f "$1/api/admin/version") || { say BAD prefect "$1 is up and refuses us: set PREFECT_API_AUTH_STRING"; return; }
  ask "$prefect_login" -f -o /dev/null -X POST -H 'Content-Type: application/json' -d '{}' "$1/api/flows/count" >/dev/null ||
    { say BAD prefect "$1 answers, and its database does not"; return; }
  # Workers and the UI need web sockets: a balancer that does not pass them on looks well until then. A server with a
  # login takes only those that name Prefect's own protocol.
  handshake=$(ask "$prefect_login" --http1.1 -o /dev/null -w '%{http_code}' --max-time 2 -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
    -H 'Sec-WebSocket-Protocol: prefect' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: c21va2Utc21va2Utc21vaw==' "$1/api/events/in" | grep -o '[0-9]\{3\}' | tail -1)
  [ "$handshake" = 101 ] || { say BAD prefect "$1 passes no web sockets on ($handshake)"; return; }
  say ok prefect "$(tr -d '"' <<<"$version") at $1, database and web sockets"
}

mlflow() {
  local version
  version=$(ask "$mlflow_login" -f "$1/version") || { say BAD mlflow "$1: no version"; return; }
  ask "$mlflow_login" -f -o /dev/null "$1/api/2.0/mlflow/experiments/search?max_results=1" >/dev/null ||
    { say BAD mlflow "$1 is up, and its database is not, or it refuses us (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD) or this name (MLFLOW_SERVER_ALLOWED_HOSTS)"; return; }
  say ok mlflow "$version at $1, with its database"
}

http() {
  local url=${1%/} answer
  url=${url%/api}
  answer=$(ask "" "$url/api/health") || { answer=${answer##*curl: }; say BAD "http" "$url: ${answer%%$'\n'*}"; return; }
  case $answer in
    true) prefect "$url"; return ;;
    *Unauthorized*) prefect "$url"; return ;;
    *"<Error>"*|*ListAllMyBuckets*) say ok s3 "$url answers as S3"; return ;;
  esac
  if [ "$(ask "" "$url/health")" = OK ]; then mlflow "$url"; else say BAD http "$url answers, and is neither Prefect nor MLflow nor S3"; fi
}

tcp() { # part url port question answer
  local rest=${2#*://} host port answer
  rest=${rest##*@}; rest=${rest%%/*}; host=${rest%%:*}; port=$3
  case $rest in *:*) port=${rest##*:} ;; esac
  # shellcheck disable=SC2016
  answer=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "$2" >&3 && head -c 1 <&3' "$host" "$port" "$4" 2>/dev/null)
  case $answer in
    ["$5"]) say ok "$1" "$host:$port" ;;
    *) say BAD "$1" "$host:$port gives no answer" ;;
  esac
}

for url in "$@"; do
  case $url in
    http://*|https://*) http "$url" ;;
    redis://*) tcp redis "$url" 6379 'PING\r\n' '+-' ;;
    # A request for TLS: any PostgreSQL answers S or N.
    postgresql*://*|postgres://*) tcp postgresql "$url" 5432 '\x00\x00\x00\x08\x04\xd2\x16\x2f' 'SN' ;;
    *) echo "smoke.sh: $url is no address it knows: http, https, redis or postgresql" >&2; exit 2 ;;
  esac
done
exit $bad
