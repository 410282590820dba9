#!/usr/bin/env bash
# The path that the chart's users know; the work is done by bin/validate-chart.
exec "$(dirname "$0")/../bin/validate-chart" "$@"
