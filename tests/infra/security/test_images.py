"""What reaches the builder of an image, and so may lie in one of its layers: no file that holds secrets."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from docker.utils.build import exclude_paths

ROOT = Path(__file__).parents[3]
IGNORED = [
    line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.strip() and not line.startswith("#")
]


def test_files_with_secrets_never_reach_the_builder(tmp_path: Path) -> None:
    for folder in ("blocks/trimtab_blocks", "infra/images", "infra/trimtab_infra"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for planted in (".env", "mlflow.secret", "secrets/prefect_auth_string", "tls.key", "ca.pem", "trimtab.toml"):
            file = tmp_path / folder / planted
            file.parent.mkdir(exist_ok=True)
            file.write_text("planted")
    for planted in (".env", "infra/.env", "infra/secrets/redis_password", "infra/systemd/server.secret", ".trimtab/x"):
        file = tmp_path / planted
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("planted")
    sent = {path for path in exclude_paths(str(tmp_path), IGNORED) if (tmp_path / path).is_file()}
    assert "blocks/trimtab_blocks/s3.py" in sent
    assert [path for path in sent if (tmp_path / path).read_bytes() == b"planted"] == []


def test_no_image_is_told_a_secret_when_it_is_built() -> None:
    """Arguments and variables of a build stay in the image; what a build needs comes by a mount of its own."""
    for file in sorted((ROOT / "infra/images").glob("*/Dockerfile")):
        said = re.findall(r"^(?:ARG|ENV|LABEL)\b.*(?:\\\n.*)*", file.read_text(), re.MULTILINE)
        assert said
        for line in said:
            assert not re.search(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY|ENCRYPTION_KEY|://\S+:\S+@", line), file
