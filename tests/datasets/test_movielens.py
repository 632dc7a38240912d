import zipfile

import pytest

from alignrec_pyg.datasets import MovieLens
from alignrec_pyg.datasets.movielens import Poster
from alignrec_pyg.graph import INTERACTS, KNOWS, known_pairs
from alignrec_pyg.pretraining.pairs import image_identity
from alignrec_pyg.transforms import KCore

RATINGS = """userId,movieId,rating,timestamp
7,30,4.0,964982703
7,10,3.5,964981247
2,30,5.0,964982224
2,20,4.5,964983815
"""
MOVIES = """movieId,title,genres
10,Toy Story (1995),Adventure|Children
20,"American President, The (1995)",(no genres listed)
30,Heat (1995),Action
40,Never rated,Drama
"""
OVERVIEWS = """movieId,tmdbId,overview,poster_path
10,862.0,"Toys live, happily.",/a.jpg
30,949.0,  ,/b.jpg
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ratings.csv").write_text(RATINGS)
    (tmp_path / "movies.csv").write_text(MOVIES)
    (tmp_path / "overviews.csv").write_text(OVERVIEWS)
    with zipfile.ZipFile(tmp_path / "posters_112.zip", "w") as archive:
        archive.writestr("posters_112/30.jpg", b"heat")
        archive.writestr("posters_112/10.jpg", b"toys")
        archive.writestr("posters_112/README.txt", b"not a poster")
    return tmp_path


def test_reads_ratings_texts_and_posters(folder):
    dataset = MovieLens(folder)
    data = dataset.data
    assert data["user"].id.tolist() == [2, 7]
    assert data["item"].id.tolist() == [10, 20, 30]  # the rated ones
    assert data[INTERACTS].edge_index.tolist() == [[1, 1, 0, 0], [2, 0, 2, 1]]
    assert data[INTERACTS].rating.tolist() == [4.0, 3.5, 5.0, 4.5]
    assert data[INTERACTS].time.tolist() == [964982703, 964981247, 964982224, 964983815]
    assert data["item"].text == [
        "Toy Story (1995) Toys live, happily.",
        "American President, The (1995)",
        "Heat (1995)",
    ]
    assert data["item"].image == [Poster(b"toys"), None, Poster(b"heat")]
    notes = "\n".join(dataset.report.notes)
    assert "posters_112.zip: 1 files not named <movieId>.jpg not read" in notes
    assert "1 of 3 movies have no poster" in notes
    assert repr(dataset) == "MovieLens(users=2, items=3, interactions=4)"


def test_text_fields_in_the_order_asked_for(folder):
    text = MovieLens(folder, text=["genres", "title"]).data["item"].text
    assert text == [
        "Adventure Children Toy Story (1995)",
        "American President, The (1995)",
        "Action Heat (1995)",
    ]
    assert MovieLens(folder, text=["overview"]).data["item"].text == [
        "Toys live, happily.",
        None,
        None,
    ]


def test_posters_are_told_apart_by_their_bytes():
    assert image_identity(Poster(b"toys")) == image_identity(Poster(b"toys"))
    assert image_identity(Poster(b"toys")) != image_identity(Poster(b"heat"))
    assert Poster(b"toys")() == b"toys"


def test_likes_are_ratings_from_a_bound_on(folder):
    dataset = MovieLens(folder, min_rating=4)
    assert dataset.data["item"].id.tolist() == [20, 30]
    assert dataset.data[INTERACTS].rating.tolist() == [4.0, 5.0, 4.5]
    assert "1 of 4 ratings below 4 are no interactions" in dataset.report.notes
    assert dataset.report.known_pairs == 0  # movie 10 has no other rating


def test_lower_ratings_are_known_pairs(folder):
    (folder / "ratings.csv").write_text(RATINGS + "2,10,4.0,964983900\n7,20,1.0,964983901\n")
    data = MovieLens(folder, min_rating=4).data
    assert known_pairs(data).tolist() == [[1, 1], [0, 1]]
    assert data[KNOWS].rating.tolist() == [3.5, 1.0]
    assert data[KNOWS].time.tolist() == [964981247, 964983901]
    assert MovieLens(folder, min_rating=4).report.known_pairs == 2


def test_movies_without_content_may_be_left_out(folder):
    assert MovieLens(folder, require=["image"]).data["item"].id.tolist() == [10, 30]
    only_overviews = MovieLens(folder, text=["overview"], require=["text", "image"])
    assert only_overviews.data["item"].id.tolist() == [10]
    assert "3 of 4 ratings of movies without text left out" in only_overviews.report.notes


def test_posters_from_a_folder_and_none(folder):
    (folder / "posters_112.zip").unlink()
    assert MovieLens(folder).data["item"].image == [None, None, None]
    (folder / "posters").mkdir()
    (folder / "posters" / "20.PNG").write_bytes(b"x")
    image = MovieLens(folder).data["item"].image
    assert image == [None, folder / "posters" / "20.PNG", None]
    (folder / "posters_small").mkdir()
    with pytest.raises(ValueError, match="several sets of posters"):
        MovieLens(folder)


def test_without_overviews(folder):
    (folder / "overviews.csv").unlink()
    dataset = MovieLens(folder)
    assert dataset.data["item"].text[0] == "Toy Story (1995)"
    assert "no overviews.csv: texts hold no overview" in dataset.report.notes


def test_transforms_keep_content_beside_its_movie(folder):
    data = KCore(1)(MovieLens(folder, min_rating=4.2).data)
    assert data["item"].id.tolist() == [20, 30]
    assert data["item"].image == [None, Poster(b"heat")]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n", "line 1: a header with"),
        ("ratings.csv", RATINGS + "3,30,high,9\n", r"line 6, column 'rating'.*\(got 'high'\)"),
        ("movies.csv", MOVIES + "10,Again,Drama\n", "line 6, column 'movieId': each movie"),
    ],
)
def test_places_of_mistakes_are_named(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        MovieLens(folder)


def test_damaged_archives_are_refused_and_damaged_posters_counted(folder):
    archive = folder / "posters_112.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:40])
    with pytest.raises(ValueError, match="posters_112.zip needs to be a zip file"):
        MovieLens(folder)
    archive.write_bytes(whole.replace(b"heat", b"hEat"))
    dataset = MovieLens(folder)
    images = dataset.data["item"].image
    assert [image and image() for image in images] == [b"toys", None, None]
    note = "ATTENTION: posters_112.zip: 1 posters cannot be read (first: posters_112/30.jpg"
    assert any(entry.startswith(note) for entry in dataset.report.notes)


def test_posters_of_absurd_size(folder, monkeypatch):
    monkeypatch.setattr("alignrec_pyg.datasets.movielens.MAX_POSTER_BYTES", 3)
    notes = MovieLens(folder).report.notes
    assert any("2 posters cannot be read" in n and "larger than 3 bytes" in n for n in notes)
    monkeypatch.setattr("alignrec_pyg.datasets.movielens.MAX_POSTERS_BYTES", 7)
    with pytest.raises(ValueError, match="below 7 bytes in all .got 20.: unpack it into a folder"):
        MovieLens(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "title"}, "'text' needs to be a list"),
        ({"text": ["plot"]}, "'text' needs to be a list"),
        ({"require": ["poster"]}, "'require' needs to be a list"),
        ({"min_rating": 9}, "all 4 are below 9"),
    ],
)
def test_arguments_are_checked(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        MovieLens(folder, **arguments)
    with pytest.raises(ValueError, match="'path' needs to be a folder"):
        MovieLens(folder / "nowhere")


def test_real_ml_latest_small(data_folder):
    likes = MovieLens(
        data_folder / "ml-latest-small",
        min_rating=4,
        text=["overview"],
        require=["text", "image"],
    )
    data = KCore(5)(likes.data)
    assert data[INTERACTS].edge_index.size(1) == 41_083
    assert (data["user"].num_nodes, data["item"].num_nodes) == (601, 1_937)
    assert all(image()[:3] == b"\xff\xd8\xff" for image in data["item"].image)
