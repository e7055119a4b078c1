# Included last: which files are results, all other rules say.
import os

from ddrs.operations.sync import check_records

if workflow.is_main_process and not workflow.touch:
    try:
        check_records("DVC_STAGE" in os.environ, logger.warning, lambda path: any(rule.is_producer(path) for rule in workflow.rules))
    except DdrsError as error:
        sys.exit(f"ddrs: error: {error}")
