#!/bin/sh
# make-certificate.sh FOLDER NAME: a self-signed certificate for NAME in FOLDER/tls.crt and its key in
# FOLDER/tls.key, unless both are there. The key can be read by the owner and the group.
set -eu
folder=$1
name=$2

if [ -s "$folder/tls.crt" ] && [ -s "$folder/tls.key" ]; then
    echo "$folder has a certificate; leaving it"
    exit 0
fi

umask 027
# Under other names first: half a key is never mistaken for one. A configuration of our own, because
# OpenSSL's makes an authority of what signs itself, and clients don't take an authority for a server.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 825 -config /dev/stdin \
    -keyout "$folder/tls.key.new" -out "$folder/tls.crt.new" <<END
[req]
prompt = no
distinguished_name = subject
x509_extensions = server
[subject]
CN = $name
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:$name, DNS:*.$name, IP:127.0.0.1
extendedKeyUsage = serverAuth
END
chmod 640 "$folder/tls.key.new"
chmod 644 "$folder/tls.crt.new"
mv "$folder/tls.key.new" "$folder/tls.key"
mv "$folder/tls.crt.new" "$folder/tls.crt"
echo "made a self-signed certificate for $name in $folder"
