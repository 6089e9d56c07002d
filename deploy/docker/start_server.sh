#!/bin/sh
# Where the image of OVMS's Python generation has its start script; `ie_serving` is on the path.
exec "$@"
