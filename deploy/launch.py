"""What the Flex Template's launcher runs: hands a whole build over as one job, and ends.

The launcher passes the template's parameters and Beam options of its own (project, region, template location and so
on), all as `--name=value`. It makes the job from what Beam leaves at the template location, after this has ended: so
nothing here waits for it.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence

from deploy.parameters import BuildParameters, Parameters
from pipeline.build import submit
from pipeline.driver.configuration import read_config
from pipeline.io import storage
from schemas.base import UsageError, UserError
from schemas.config import BuildConfig
from schemas.loader import validate

DISK_GB = 200
"""Disk of a worker, where nobody says: Dataflow's own default is smaller than the image."""


def parse(arguments: Sequence[str]) -> tuple[Parameters, list[str]]:
    """The template's parameters, and what goes to Beam as it is. Raises `UsageError`."""
    given: dict[str, str] = {}
    beam_args: list[str] = []
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if name in Parameters.model_fields:
            given[name] = value
        if name not in BuildParameters.model_fields:
            beam_args.append(argument)
    return validate(Parameters, given, "parameters"), beam_args


def configuration(parameters: Parameters) -> BuildConfig:
    """The configuration that the parameters name, with what they change in it. Raises `UsageError`."""
    try:
        overrides = shlex.split(parameters.overrides or "")
    except ValueError as error:
        raise UsageError(f"overrides: {error}: {parameters.overrides}") from None
    config = read_config(parameters.config, overrides)
    workers = config.workers
    image = parameters.sdk_container_image or workers.image
    if image is None:
        raise UsageError("sdk_container_image: name the template's own image, here or as the key workers.image")
    disk_gb = int(parameters.disk_size_gb or workers.disk_gb or DISK_GB)
    return config.model_copy(update={"workers": workers.model_copy(update={"image": image, "disk_gb": disk_gb})})


def launch(arguments: Sequence[str]) -> None:
    """Hand the build over. Raises `UsageError` for what is wrong, `UserError` for what fails."""
    parameters, beam_args = parse(arguments)
    submitted = submit(configuration(parameters), storage.parse(parameters.output).absolute(), beam_args)
    if not submitted.is_new:
        raise UsageError(f"{parameters.output} holds this build already, finished: there is no job to make")


def main() -> None:
    """Entry point: an error that the user can mend is one line, and exit code 2 if it was wrong usage."""
    logging.getLogger().setLevel(logging.INFO)
    try:
        launch(sys.argv[1:])
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    main()
