"""Tests of Prefect's that are not run with our classes in place, by name, and why."""

from __future__ import annotations

__all__ = ["DOES_NOT_APPLY", "FAILS_WITH_PREFECTS_TOO"]

_MORE = "answers itself, in place of the server, only what Prefect's worker asks; ours asks for the fleet as well"
_CLIENTS = "counts the clients of the Docker engine; ours has one more, to find its containers again"

_REMOVES = "of a container that the engine removes itself; ours has it stay until it was asked how it ended"
_OUTPUT = "wants an error of the output to end the run; with ours the run goes on, and the engine is asked how it ends"
_AGAIN = "wants a run that could not be started to stay Crashed; ours starts it again, once"

DOES_NOT_APPLY: dict[str, str] = {
    "test_worker_sends_heartbeat_gets_id": _MORE,
    "test_worker_with_work_pool_and_limit": (
        "expects runs that are being submitted to be named once more at each poll; ours names what it has picked anew"
    ),
    "TestWorkerSelfAttribution::test_setup_sets_worker_name_env_var": _MORE,
    "test_uses_label_setting": "compares all labels; ours adds the claim",
    "test_logs_warning_when_auto_removed_container_is_missing": _REMOVES,
    "test_warns_when_auto_removed_container_disappears_while_watching": _REMOVES,
    "test_unrelated_docker_api_error_while_watching_is_raised": _OUTPUT,
    "test_missing_container_while_watching_is_raised_without_auto_remove": _OUTPUT,
    "test_uses_env_setting": "compares all of the environment; ours adds what a run is told of its devices",
    "test_worker_errors_out_on_ephemeral_apis": "ours looks for a Docker engine first; passes only where there is one",
    "TestSubmitAdhocRunWithFlowRunParameter::test_submit_adhoc_run_with_existing_flow_run_reuses_id": (
        "its stand-in for the engine cannot find a container by its label, by which ours asks how it ended"
    ),
    "test_worker_handles_double_release_gracefully": _AGAIN,
    "TestInfrastructureIntegration::test_worker_crashes_flow_if_infrastructure_submission_fails": _AGAIN,
    "TestInfrastructureIntegration::test_non_zero_exit_code_logs_resolution_hint": _AGAIN,
    "test_docker_client_default_timeout_configuration": _CLIENTS,
    "test_docker_client_overwrite_timeout_configuration": _CLIENTS,
}

_STARTER = (
    "is of an older commit: Prefect 3.8.8 starts runs through WorkspaceResolvingEngineCommandStarter, the test looks at"
    " EngineCommandStarter"
)
_ENGINE = "needs a Docker engine that can pull images"

FAILS_WITH_PREFECTS_TOO: dict[str, str] = {
    "test_worker_process_run_flow_run_with_env_variables_job_config_defaults": _STARTER,
    "test_process_worker_working_dir_override": _STARTER,
    "test_process_worker_uses_auto_uv_command_for_project_working_dir": _STARTER,
    "test_process_worker_auto_uv_command_uses_absolute_project_path": _STARTER,
    "test_process_worker_auto_uv_command_honors_job_variable_env": _STARTER,
    "test_process_worker_keeps_engine_command_without_project": _STARTER,
    "test_process_worker_stream_output_override": _STARTER,
    "test_process_worker_executes_flow_run_with_engine_starter": _STARTER,
    "TestSubmit::test_basic": "is of an older commit: Prefect 3.8.8 pins its own version for the upload of a bundle",
    "test_stream_container_logs_on_real_container": _ENGINE,
    "test_container_result": _ENGINE,
    "test_container_auto_remove": _ENGINE,
    "test_container_metadata": _ENGINE,
    "test_container_name_collision": _ENGINE,
    "test_container_result_async": _ENGINE,
}
