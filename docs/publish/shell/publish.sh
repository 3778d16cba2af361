#!/bin/sh
# Publishes an event over HTTP, and tries again while that can help: the id keeps it from being published twice.
#
#   FOGHORN_TOKEN=… sh publish.sh http://127.0.0.1:8080 orders.eu.42 paid payment-7781 '{"amount":990}'
set -eu

url=$1 channel=$2 event=$3 id=$4 data=$5

# `--retry` is for 408, 429 and 5xx, and heeds Retry-After.
curl --silent --show-error --fail-with-body \
     --max-time 25 --retry 5 --retry-connrefused --retry-max-time 120 \
     ${FOGHORN_TOKEN:+--header "Authorization: Bearer $FOGHORN_TOKEN"} \
     --header 'Content-Type: application/json' \
     --data "{\"channel\":\"$channel\",\"event\":\"$event\",\"id\":\"$id\",\"data\":$data}" \
     "$url/api/publish"
echo
