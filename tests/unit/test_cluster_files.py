"""The files under cluster/: they parse, hold what their readers demand, and keep no secret.

The launcher's files go through Ray's own validator. KubeRay's clusters go through the code that Ray's autoscaler
reads them with, their pods and the config map through Kubernetes' published schema, and KubeRay's own fields through
a part of its resource definitions' schema, written down by hand (`tests/data/kuberay-subset.yaml`): the definitions
themselves are not kept here, and no Kubernetes has seen the files. Fields, types and what is required of a RayCluster
agree with the definition of version v1 in KubeRay's repository at commit 017710c. Any field that the files do not use
is refused, so that a misspelled one fails; the test cannot tell whether a later KubeRay still has them.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private import util as launcher
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.providers import _get_default_config

from kd_ray import Config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER = ["aws.yaml", "gcp.yaml"]
KUBERAY = ["raycluster.yaml", "rayjob.yaml"]
KUBERNETES = "1.34"
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def kuberay(name: str) -> dict[str, Any]:
    return read(f"kuberay/{name}")


def pods(name: str) -> list[dict[str, Any]]:
    """The specs of all pods that a KubeRay file makes."""
    spec = kuberay(name)["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [group["template"] for group in groups] + [spec[key] for key in spec if key == "submitterPodTemplate"]
    return [template["spec"] for template in templates]


def schema() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "tests/data/kuberay-subset.yaml").read_text())


@pytest.mark.parametrize("name", LAUNCHER)
def test_rays_validator_takes_the_launchers_files(name: str) -> None:
    prepared = launcher.prepare_config(read(name))
    launcher.validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["max_workers"] == prepared["max_workers"]


@pytest.mark.parametrize("name", LAUNCHER)
def test_rays_validator_would_refuse_a_misspelled_field(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        launcher.validate_config(launcher.prepare_config(read(name) | {"max_worker": 2}))


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launchers_head_takes_no_work_and_its_workers_come_and_go(name: str) -> None:
    config = read(name)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert re.search("spot|preemptible: True", str(types["gpu"]["node_config"]).replace("'", ""))


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launchers_nodes_have_a_token_and_a_dashboard_on_loopback(name: str) -> None:
    config = read(name)
    starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    assert ".git" in config["rsync_exclude"]


@pytest.mark.parametrize("name", LAUNCHER)
def test_every_command_of_the_launcher_that_ray_has_is_ours(name: str) -> None:
    config, defaults = read(name), _get_default_config(read(name)["provider"])
    assert {key for key in defaults if key.endswith("commands")} <= set(config)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberays_files_have_the_fields_that_the_subset_of_its_schema_knows(name: str) -> None:
    document = kuberay(name)
    jsonschema.validate(document, schema() | {"$ref": f"#/definitions/{document['kind']}"})


def test_the_config_map_and_every_pod_are_valid_by_the_schema_of_kubernetes() -> None:
    kubernetes_validate.validate(kuberay("configmap.yaml"), KUBERNETES, strict=True)
    every = [pod for name in KUBERAY for pod in pods(name)]
    assert len(every) == 5
    for spec in every:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        spec["containers"][0]["volumeMount"] = []
        with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", KUBERAY)
def test_rays_autoscaler_reads_from_kuberays_clusters_an_idle_head_and_workers_of_a_gpu_each(name: str) -> None:
    spec = kuberay(name)["spec"]
    cluster = {"metadata": {"name": "kd-ray", "namespace": "default"}, "spec": spec.get("rayClusterSpec", spec)}
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    types = config["available_node_types"]
    assert set(types) == {"headgroup", "gpu"}
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["headgroup"]["max_workers"] == 0
    gpu = types["gpu"]
    assert (gpu["resources"]["CPU"], gpu["resources"]["GPU"], gpu["resources"]["memory"]) == (8, 1, 32 * 2**30)
    assert gpu["min_workers"] == 0
    assert config["max_workers"] == gpu["max_workers"] > 0


@pytest.mark.parametrize(
    ("name", "field"),
    [("rayjob.yaml", "entryPoint"), ("raycluster.yaml", "authOption"), ("rayjob.yaml", "authOptions")],
)
def test_the_subset_refuses_a_field_that_kuberay_lacks(name: str, field: str) -> None:
    document = kuberay(name)
    document["spec"][field] = "x"
    with pytest.raises(jsonschema.ValidationError, match=field):
        jsonschema.validate(document, schema() | {"$ref": f"#/definitions/{document['kind']}"})


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberays_clusters_have_a_token_an_idle_head_and_workers_that_come_and_go(name: str) -> None:
    spec = kuberay(name)["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == 0
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberays_pods_are_not_root_and_have_limits(name: str) -> None:
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 1000
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert container["resources"]["limits"] == container["resources"]["requests"] or "submitter" in str(
                container
            )


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_rays_pods_have_their_shared_memory_and_the_config(name: str) -> None:
    for pod in [pod for pod in pods(name) if "submitter" not in pod["containers"][0]["name"]]:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert volumes[mounts["/config"]]["configMap"]["name"] == kuberay("configmap.yaml")["metadata"]["name"]


def test_the_rayjob_has_the_cluster_of_the_raycluster() -> None:
    assert kuberay("rayjob.yaml")["spec"]["rayClusterSpec"] == kuberay("raycluster.yaml")["spec"]


def test_the_rayjob_runs_what_the_image_holds() -> None:
    words = shlex.split(kuberay("rayjob.yaml")["spec"]["entrypoint"])
    jobs = [Path(word) for word in words if word.endswith(".py")]
    assert [job.parent.as_posix() for job in jobs] == ["/app/jobs", "/app/jobs"]
    assert all((ROOT / "jobs" / job.name).exists() for job in jobs)
    assert "/config/config.yaml" in words


def test_the_configmaps_config_is_one_of_kd_rays(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(kuberay("configmap.yaml")["data"]["config.yaml"])
    assert Config.from_yaml(tmp_path / "config.yaml").data.columns.target == "churned"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CLUSTER).as_posix())
def test_no_file_holds_a_token_or_an_open_dashboard(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"RAY_AUTH_TOKEN[=:]\s*['\"]?[0-9a-zA-Z]", text)
    assert not re.search(r"auth_token[=:]\s*['\"]?[0-9a-f]{8}", text)
    assert not re.search(r"\b[0-9a-f]{32,}\b", text)
    assert "0.0.0.0" not in text
    assert "LoadBalancer" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CLUSTER).as_posix())
def test_every_image_has_a_version(path: Path) -> None:
    images = re.findall(r"^FROM (\S+)|\bimage: (\S+)", path.read_text(), re.MULTILINE)
    for image in ("".join(found) for found in images):
        assert re.fullmatch(r"[\w-]+:\d+\.\d+[\w.-]*", image), image


def test_the_image_is_not_root_and_is_installed_with_the_constraints() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users[-1] == "1000:1000"
    assert any("pip install" in line and "-c constraints.txt ." in line for line in lines)
    for source in re.findall(r"^COPY (.+) \S+$", "\n".join(lines), re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_the_clusters_ray_is_the_one_that_the_constraints_pin(name: str) -> None:
    spec = kuberay(name)["spec"]
    version = spec.get("rayClusterSpec", spec)["rayVersion"]
    assert f"\nray=={version}\n" in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("path", sorted((CLUSTER / "local").glob("*.py")), ids=lambda path: path.name)
def test_the_local_clusters_modules_are_under_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
