#!/bin/sh
# Dataflow starts this image as a worker, with the flags of Beam's boot, or as the template's launcher, without them.
set -eu
for argument in "$@"; do
  case $argument in
    --worker_pool | --worker_pool=* | --id | --id=* | --*_endpoint | --*_endpoint=*)
      exec /opt/apache/beam/boot "$@"
      ;;
  esac
done
exec /opt/google/dataflow/python_template_launcher "$@"
