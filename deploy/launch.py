"""The program of the Flex Template's launcher: submits a whole build as one job, and ends.

The launcher passes the template's parameters and its own Beam options (project, region, template location and so on),
all as `--name=value`. It makes the job from the files that Beam writes to the template location, after this program has
ended. So nothing here waits for the job.
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
"""Default disk of a worker: Dataflow's own default is smaller than the image."""


def parse(arguments: Sequence[str]) -> tuple[Parameters, list[str]]:
    """Return the template's parameters, and the arguments for Beam. Raise `UsageError` for a wrong parameter."""
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
    """Return the configuration that the parameters name, with their overrides. Raise `UsageError` for a wrong one."""
    try:
        overrides = shlex.split(parameters.overrides or "")
    except ValueError as error:
        raise UsageError(f"overrides: {error}: {parameters.overrides}") from None
    config = read_config(parameters.config, overrides)
    workers = config.workers
    image = parameters.sdk_container_image or workers.image
    if image is None:
        raise UsageError("sdk_container_image: name the template's image, here or by the key workers.image")
    disk_gb = int(parameters.disk_size_gb or workers.disk_gb or DISK_GB)
    return config.model_copy(update={"workers": workers.model_copy(update={"image": image, "disk_gb": disk_gb})})


def launch(arguments: Sequence[str]) -> None:
    """Submit the build. Raise `UsageError` for wrong arguments, and `UserError` for failures."""
    parameters, beam_args = parse(arguments)
    submitted = submit(configuration(parameters), storage.parse(parameters.output).absolute(), beam_args)
    if not submitted.is_new:
        raise UsageError(f"{parameters.output} holds this build already, finished; no job was made")


def main() -> None:
    """Launch; print a user's error as one line, with exit code 2 for wrong usage and 1 otherwise."""
    logging.getLogger().setLevel(logging.INFO)
    try:
        launch(sys.argv[1:])
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    main()
