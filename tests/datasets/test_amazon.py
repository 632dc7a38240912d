import gzip
import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from alignrec_pyg.datasets import AmazonReviews, fetch_images, from_frames
from alignrec_pyg.datasets.amazon import PAPER_STATISTICS, Statistics, compare_statistics
from alignrec_pyg.graph import INTERACTS, known_pairs
from alignrec_pyg.transforms import KCore, MinRating

ASINS = ("B000000001", "B000000002", "B000000003")
# the 2-core is users a, b and items 1, 2; dropping c leaves item 3 with one interaction
LINKS = [
    ("Ua", 0, 5.0, 1370000003),
    ("Ua", 1, 4.0, 1370000002),
    ("Ub", 0, 1.0, 1370000001),
    ("Ub", 1, 5.0, 1370000001),
    ("Ub", 2, 5.0, 1370000004),
    ("Uc", 2, 5.0, 1370000005),
    ("Ua", 0, 2.0, 1370000009),
]


def lines(rows, form=json.dumps):
    return gzip.compress("".join(form(row) + "\n" for row in rows).encode())


def reviews_2014():
    return lines(
        {
            "reviewerID": user,
            "asin": ASINS[item],
            "reviewText": "loved it " * 20,
            "helpful": [2, 3],
            "overall": rating,
            "unixReviewTime": time,
            "reviewTime": "09 13, 2009",
        }
        for user, item, rating, time in LINKS
    )


def meta_2014(url):
    rows = [{"asin": a, "title": f"It's {a[-1]}", "imUrl": f"{url}/{a}.jpg"} for a in ASINS]
    return lines(rows, repr)


def vectors():
    rows = [np.full(4096, value, dtype="<f4") for value in (1, 2)]
    return b"".join(a.encode() + row.tobytes() for a, row in zip(ASINS[1:], rows, strict=True))


@pytest.fixture
def mirror(server):
    """All files of a toy category, of both versions."""
    ratings = "".join(f"{u},{ASINS[i]},{r},{t}\n" for u, i, r, t in LINKS).encode()
    new = lines(
        {
            "rating": rating,
            "text": "fine",
            "images": [],
            "asin": f"variant{row}",
            "parent_asin": ASINS[item],
            "user_id": user,
            "timestamp": time * 1000 + 7,
        }
        for row, (user, item, rating, time) in enumerate(LINKS)
    )
    server.serve("/reviews_Toy_5.json.gz", reviews_2014(), drops=1, piece=100)
    server.serve("/ratings_Toy.csv", ratings)
    server.serve("/meta_Toy.json.gz", meta_2014(server.url))
    server.serve("/image_features_Toy.b", vectors(), drops=1, piece=20_000)
    server.serve("/Toy.jsonl.gz", new)
    meta = [{"parent_asin": ASINS[0], "title": "One", "store": "Acme", "features": ["f"]}]
    server.serve("/meta_Toy.jsonl.gz", lines(meta))
    return server


def toy(server, root, version="2014", **arguments):
    return AmazonReviews(root, "Toy", version, mirror=f"{server.url}/", k=2, **arguments)


def test_2014_from_download_to_graph(mirror, tmp_path):
    dataset = toy(mirror, tmp_path, image_features=True)
    data = dataset.data
    assert data["user"].id.tolist() == ["Ua", "Ub"]
    assert data["item"].id.tolist() == list(ASINS[:2])
    assert data[INTERACTS].edge_index.tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert data[INTERACTS].rating.tolist() == [5, 4, 1, 5]
    assert data[INTERACTS].time.tolist() == [1370000003, 1370000002, 1370000001, 1370000001]
    assert data["item"].text == ["It's 1", "It's 2"]
    assert data["item"].x_image[:, 0].tolist() == [0, 1]
    assert data["item"].mask_image.tolist() == [True, False]
    assert dataset.report.duplicates == 1
    assert "2-core: 4 of 6 interactions stay" in dataset.report.notes
    count = len(mirror.requests)
    assert toy(mirror, tmp_path, image_features=True).data["item"].text == data["item"].text
    assert len(mirror.requests) == count  # all files were there

    mirror.serve(f"/{ASINS[0]}.jpg", b"\xff\xd8\xff image")
    report = fetch_images(data, tmp_path / "images", hosts=["127.0.0.1"])
    assert report.failed == {"the server answered 404": 1}
    assert data["item"].image_path[0].read_bytes() == b"\xff\xd8\xff image"


def test_2014_ratings_are_the_same_interactions(mirror, tmp_path):
    reviews = toy(mirror, tmp_path).data
    ratings = toy(mirror, tmp_path, source="ratings").data
    for key in ("edge_index", "rating", "time"):
        assert ratings[INTERACTS][key].tolist() == reviews[INTERACTS][key].tolist()
    assert ratings["item"].id.tolist() == reviews["item"].id.tolist()


def test_2023_counts_variants_as_one(mirror, tmp_path):
    data = toy(mirror, tmp_path, "2023", text=["brand", "title", "features"]).data
    assert data["item"].id.tolist() == list(ASINS[:2])
    assert data[INTERACTS].time[0] == 1370000003007
    assert data["item"].text == ["Acme One f", None]
    assert data["item"].image_url == [None, None]


def test_what_is_left_out_is_counted(mirror, tmp_path):
    last = toy(mirror, tmp_path, keep="last").data[INTERACTS]
    assert last.rating[last.edge_index.sum(0) == 0].tolist() == [2]
    liked = AmazonReviews(tmp_path, "Toy", mirror=mirror.url, k=None, min_rating=4).report
    assert (liked.users, liked.items, liked.interactions, liked.duplicates) == (3, 3, 5, 1)
    assert liked.known_pairs == 1
    assert "1 of 6 ratings below 4 are no interactions" in liked.notes


def test_repeated_rows_go_before_low_ratings_as_with_frames(server, tmp_path):
    rows = [("a", "x", 2.0), ("a", "x", 5.0), ("b", "x", 5.0), ("b", "x", 2.0), ("c", "y", 4.0)]
    names = ["reviewerID", "asin", "overall"]
    reviews = [dict(zip(names, row, strict=True)) | {"unixReviewTime": 1} for row in rows]
    server.serve("/reviews_Toy_5.json.gz", lines(reviews))
    server.serve("/meta_Toy.json.gz", lines([{"asin": "x"}, {"asin": "y"}], repr))
    frame = pd.DataFrame(rows, columns=["user", "item", "rating"])
    for keep, liked in (("first", [("b", "x"), ("c", "y")]), ("last", [("a", "x"), ("c", "y")])):
        options = {"k": None, "min_rating": 4, "keep": keep, "mirror": server.url}
        data = AmazonReviews(tmp_path, "Toy", **options).data
        other = KCore(1)(MinRating(4)(from_frames(frame, rating="rating", keep=keep).data))
        for graph in (data, other):
            user, item = graph[INTERACTS].edge_index.tolist()
            pairs = zip(graph["user"].id[user], graph["item"].id[item], strict=True)
            assert sorted(pairs) == liked


def test_lower_ratings_of_the_users_and_items_that_stay_are_known_pairs(mirror, tmp_path):
    # with the last rating of user a, nobody likes item 0
    for keep, known in (("first", [("Ub", ASINS[0])]), ("last", [])):
        options = {"k": None, "min_rating": 4, "keep": keep, "text": ["title"]}
        data = AmazonReviews(tmp_path, "Toy", mirror=mirror.url, **options).data
        user, item = known_pairs(data).tolist()
        pairs = zip(data["user"].id[user], data["item"].id[item], strict=True)
        assert list(pairs) == known
        assert (ASINS[0] in data["item"].id) == bool(known)


def test_hashes_are_checked(mirror, tmp_path):
    good = hashlib.sha256(meta_2014(mirror.url)).hexdigest()
    with pytest.raises(ValueError, match="another SHA-256"):
        toy(mirror, tmp_path, sha256={"meta_Toy.json.gz": "0" * 64})
    with pytest.raises(ValueError, match="'sha256' needs names of"):
        toy(mirror, tmp_path, sha256={"meta.json": good})


def test_dead_links_tell_what_to_do(mirror, tmp_path):
    del mirror.routes["/meta_Toy.json.gz"]
    with pytest.raises(RuntimeError) as caught:
        toy(mirror, tmp_path)
    message = str(caught.value)
    assert "answered 404" in message
    assert f"save it as {tmp_path / 'meta_Toy.json.gz'} and start again" in message
    assert "https://cseweb.ucsd.edu" in message
    (tmp_path / "meta_Toy.json.gz").write_bytes(meta_2014(""))  # done by hand
    assert toy(mirror, tmp_path).report.items == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"reviewerID": "Ua"', "line 8: a JSON object"),
        ('{"reviewerID": null, "asin": "B1", "overall": 1, "unixReviewTime": 1}', "line 8, column"),
        ('{"reviewerID": 7, "asin": "B1", "overall": 1, "unixReviewTime": 1}', "line 8, column"),
    ],
)
def test_bad_reviews_are_named(mirror, tmp_path, row, message):
    body = gzip.decompress(reviews_2014()) + row.encode() + b"\n"
    mirror.serve("/reviews_Toy_5.json.gz", gzip.compress(body))
    with pytest.raises(ValueError, match=message):
        AmazonReviews(tmp_path, "Toy", mirror=mirror.url, k=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "../x"}, "'category' needs to be a name as in the files"),
        ({"version": "2018"}, "'version' needs to be one of"),
        ({"source": "all"}, "'source' needs to be"),
        ({"version": "2023", "source": "ratings"}, "are there for version '2014'"),
        ({"k": 0}, "'k' needs to be 1 or more"),
        ({"k": 9}, "'k' leaves no interaction"),
        ({"min_rating": 9}, "'min_rating' leaves no interaction"),
        ({"text": "title"}, "'text' needs to be a list"),
        ({"text": ["name"]}, "'text' needs to be a list"),
    ],
)
def test_arguments_are_checked(mirror, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        AmazonReviews(tmp_path, **{"category": "Toy", "mirror": mirror.url} | arguments)


def test_sizes_are_compared_with_the_papers(mirror, tmp_path):
    for name in ("reviews_Toy_5.json.gz", "meta_Toy.json.gz"):
        mirror.routes[f"/{name.replace('Toy', 'Baby')}"] = mirror.routes[f"/{name}"]
    rows = [("U" + str(u), a) for u in range(5) for a in [f"B00000000{i}" for i in range(5)]]
    body = lines(
        {"reviewerID": u, "asin": a, "overall": 5.0, "unixReviewTime": 1370000000} for u, a in rows
    )
    mirror.serve("/reviews_Baby_5.json.gz", body)
    notes = AmazonReviews(tmp_path, "Baby", mirror=mirror.url).report.notes
    assert notes[-1] == (
        "ATTENTION: not the published sizes: users 5 (published: 19,445), items 5 "
        "(published: 7,050), interactions 25 (published: 160,792)"
    )
    same = compare_statistics(Statistics(3, 2, 5), Statistics(3, 2, 5))
    assert same == "the published sizes: 3 users, 2 items, 5 interactions"


@pytest.mark.slow
@pytest.mark.parametrize("category", PAPER_STATISTICS)
def test_real_files_have_the_papers_sizes(data_folder, category):
    root = data_folder / "amazon"
    files = (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz")
    if not all((root / name).is_file() for name in files):
        pytest.skip(f"{root} does not hold {' and '.join(files)}")
    report = AmazonReviews(root, category).report
    assert compare_statistics(report, PAPER_STATISTICS[category]).startswith("the published sizes")
