"""Tasks of evaluation repositories are recognised by their SWE-bench id, and only those.

Run: pytest tests/test_quality_repos.py
"""

from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.quality.repos import parse_repos, repo_matcher

SHIPPED = Path(__file__).parent.parent / "training_config" / "excluded_repos.txt"


@pytest.mark.parametrize(
    ("repo", "instance_id", "expected"),
    [
        ("owner/repo_name", "owner__repo_name-123", True),
        ("owner/repo_name", "owner__repo_name-123__abc123", True),
        ("Owner/Repo_Name", "owner__repo_name-123", True),
        ("owner/repo.name", "owner__repoXname-1", False),
        ("django/django", "flask__flask-123", False),
        ("django/django", "django__django-rest-1", False),
        ("django/django", "my-django__django-1", False),
    ],
)
def test_matching(repo, instance_id, expected):
    assert repo_matcher([repo])(instance_id) is expected


def test_empty_list_matches_nothing():
    assert not repo_matcher([])("django__django-1")


def test_shipped_list_holds_the_64_repositories():
    repos = parse_repos(SHIPPED.read_text(), SHIPPED.name)
    assert len(set(repos)) == len(repos) == 64
    assert repo_matcher(repos)("vuejs__core-11589")


def test_a_line_that_is_no_repository_is_refused_with_its_number():
    with pytest.raises(DataError, match=r"list.txt:3: not a repository \(got 'django'\)"):
        parse_repos("# a\nowner/repo\ndjango\n", "list.txt")
