"""`prefect deploy --all` on a real server: what is registered, what its form shows, what it refuses."""

import pytest
from prefect.exceptions import PrefectHTTPStatusError

from nanochat.recipes import RECIPES
from nanochat.workflow.stage import STAGES


def test_all_deployments_are_registered(deployed):
    with deployed.client() as client:
        pipeline = client.read_deployment_by_name("pipeline/pipeline")
        nightly = client.read_deployment_by_name("pipeline/pipeline-nightly")
        gpu = client.read_deployment_by_name("stage/gpu")
    assert (pipeline.work_pool_name, gpu.work_pool_name) == ("cpu-pool", "gpu-pool")
    assert pipeline.parameters == {"gpu_deployment": "stage/gpu"}
    assert [schedule.active for schedule in nightly.schedules] == [False]
    assert pipeline.pull_steps == [{"prefect.deployments.steps.set_working_directory": {"directory": "."}}]
    for each in (pipeline, nightly, gpu):
        assert each.enforce_parameter_schema
        assert each.job_variables["working_dir"] == "."
        assert each.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_gpu_stages_are_kept_apart_by_their_pool_and_silent_runs_crash(deployed):
    with deployed.client() as client:
        assert client.read_work_pool("gpu-pool").concurrency_limit == 1
        [automation] = client.request("POST", "/automations/filter").json()
    assert automation["actions"][0]["state"] == "CRASHED"


def test_the_form_shows_recipes_as_choices_and_knobs_with_their_help(deployed):
    with deployed.client() as client:
        schema = client.read_deployment_by_name("pipeline/pipeline").parameter_openapi_schema
    assert schema["properties"]["recipe"]["enum"] == list(RECIPES)
    assert schema["properties"]["only"]["items"]["enum"] == list(STAGES)
    assert all(field.get("description") for field in schema["properties"].values())
    depth = schema["definitions"]["Pretrain"]["properties"]["depth"]
    assert depth["description"] == STAGES["pretrain"].knobs()["depth"].help
    assert depth["minimum"] == 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"recipe": "tinny"},
        {"knobs": {"pretrain": {"depht": 3}}},
        {"knobs": {"pretrain": {"depth": 0}}},
        {"only": ["pretraining"]},
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_run(deployed, parameters):
    with deployed.client() as client:
        deployment = client.read_deployment_by_name("pipeline/pipeline")
        with pytest.raises(PrefectHTTPStatusError, match="409"):
            client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
