"""Jobs in Avro and Protobuf for tests on a real registry."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

import adstream as ads
from adstream import col
from tests.unit.formats.messages import CLICK


class Order(ads.Record):
    id: str
    price: Annotated[Decimal, ads.decimal(10, 2)]
    at: datetime


@ads.topology(name="formats-rows")
def rows(app: ads.App, prefix: str) -> None:
    orders = app.stream(f"{prefix}-orders", Order, timestamp="at", format="avro")
    orders.with_columns(twice=col("price") * 2).to(f"{prefix}-twice", key="id", format="avro")


@ads.topology(name="formats-records")
def records(app: ads.App, prefix: str) -> None:
    clicks = app.stream(f"{prefix}-clicks", value=ads.serdes.protobuf(CLICK))
    clicks.map_values(lambda c: CLICK(id=c.id.upper(), n=c.n + 1)).to(
        f"{prefix}-more", value=ads.serdes.protobuf(CLICK)
    )
