"""Films are made once for all tests of this folder, and only those that are asked for."""

from functools import cache

import pytest
from films import FILMS, decode_plainly, write

BY_NAME = {film.name: film for film in FILMS}


@pytest.fixture(scope="session")
def film_path(tmp_path_factory):
    """name -> path of the film of that name."""
    folder = tmp_path_factory.mktemp("films")
    return cache(lambda name: write(folder, BY_NAME[name]))


@pytest.fixture(scope="session")
def film_frames(film_path):
    """name -> all frames of the film of that name, decoded in order by PyAV alone."""
    return cache(lambda name: decode_plainly(film_path(name), BY_NAME[name].turn))
