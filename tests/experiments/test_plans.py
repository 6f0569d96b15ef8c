"""The tables are whole: every cell has a config that may be run, every claim names its columns."""

import pytest

from experiments import plans, protocol
from sskd_jax import settings
from sskd_jax.types import UserError


@pytest.mark.parametrize("name", plans.TABLES)
def test_a_table(name):
    table = plans.table(name)
    places = [(cell.row, cell.column) for cell in table.cells]
    rows, columns = ({place[axis] for place in places} for axis in (0, 1))
    assert len(places) == len(set(places)) and table.seeds
    assert table.yardstick in columns
    for claim in table.claims:
        assert {claim.better, claim.worse} <= columns
        assert {claim.row, claim.than} <= {"", *rows} and bool(claim.row) >= bool(claim.than)
    for cell in (table.cells[0], table.cells[-1]):
        settings.check(protocol.load(cell.config, cell.changes))


def test_cells_that_are_alike_are_one_experiment():
    def experiment(name: str, row: str, column: str) -> str:
        cells = plans.TABLES[name].cells
        (cell,) = (cell for cell in cells if (cell.row, cell.column) == (row, column))
        config = protocol.as_json(protocol.load(cell.config, cell.changes))
        return protocol.describe(config, "student")["experiment"]

    small = experiment("quarter", plans.SMALL, "sskd")
    for place in (("few", "25 %"), ("noise", "0 %"), ("ablation", plans.SMALL)):
        assert experiment(*place, "sskd") == small
    assert experiment("ablation", plans.SMALL, "without ss") != small
    published = experiment("similar", "vgg13 -> vgg8", "sskd")
    assert experiment("kept", "ss_ratio", "75 %") == published


def test_the_papers_numbers_stand_beside_their_cells():
    cells = plans.TABLES["similar"].cells
    found = {(cell.row, cell.column): cell.paper for cell in cells}
    assert found["vgg13 -> vgg8", "sskd"] == 75.33 and found["vgg13 -> vgg8", "scratch"] == 70.68
    assert len(found) == 5 * 12


def test_a_table_that_is_not_there():
    with pytest.raises(UserError, match="unknown table 'simlar': did you mean 'similar'"):
        plans.table("simlar")
