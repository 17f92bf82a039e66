#!/bin/sh
# Dataflow starts this image in two roles: a worker gets the flags of Beam's boot, the launcher of the template does not.
set -eu
for argument in "$@"; do
  case $argument in
    --worker_pool | --worker_pool=* | --id | --id=* | --*_endpoint | --*_endpoint=*)
      exec /opt/apache/beam/boot "$@"
      ;;
  esac
done
exec /opt/google/dataflow/python_template_launcher "$@"
