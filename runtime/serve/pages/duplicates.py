"""Groups of pictures with the same code, or nearly the same."""

from queryopt.runtime.markup import Markup, element
from queryopt.runtime.serve.duplicates import MAX_RADIUS, Duplicates
from queryopt.runtime.serve.gallery import Gallery
from queryopt.runtime.serve.pages.shell import image_link, link, page, pager
from queryopt.text import counted

__all__ = ["duplicates_page"]

_OF_A_PAGE = 20
_OF_A_GROUP = 8


def duplicates_page(gallery: Gallery, found: Duplicates | None, radius: int, number: int) -> str:
    """Page `number` (from 1) of the groups within a radius."""
    choices = [
        element(
            "li",
            element(
                "a",
                "the same code" if choice == 0 else f"within {counted(choice, 'bit', 'bits')}",
                href=f"/duplicates?radius={choice}",
                aria_current="true" if choice == radius else None,
            ),
        )
        for choice in range(MAX_RADIUS + 1)
    ]
    groups = () if found is None else found.groups
    some = groups[(number - 1) * _OF_A_PAGE : number * _OF_A_PAGE]
    items = []
    for at, group in enumerate(some, (number - 1) * _OF_A_PAGE + 1):
        images = gallery.images(group[:_OF_A_GROUP].tolist())
        more = len(group) - _OF_A_GROUP
        all_of_it = link(
            "/results", f"and {more:,} more" if more > 0 else "compare", image=int(group[0]), radius=radius, k=100
        )
        items.append(
            element(
                "li",
                element("h2", f"Group {at}: {counted(len(group), 'picture', 'pictures')} ", all_of_it),
                element("ul", *(image_link(image) for image in images), class_="grid small"),
                class_="group",
            )
        )
    return page(
        "Duplicates",
        element("h1", "Duplicates"),
        element("nav", element("ul", *choices), class_="choices", aria_label="How near"),
        _summary(found),
        element("ol", *items, class_="groups", start=(number - 1) * _OF_A_PAGE + 1) if items else None,
        pager("/duplicates", number, -(-len(groups) // _OF_A_PAGE), "Pages of groups", radius=radius),
        here="/duplicates",
        uploads=gallery.can_hash,
    )


def _summary(found: Duplicates | None) -> Markup:
    if found is None:
        return element("p", "Comparing all codes of the index …", class_="progress", data_again="1000", role="status")
    groups = counted(len(found.groups), "group", "groups")
    what = (
        f"{groups}, {counted(found.pictures, 'picture', 'pictures')} of {found.images:,}"
        if found.groups
        else ("No two pictures are as near as that")
    )
    if found.complete:
        return element("p", f"{what}.", class_="summary")
    far = f"{found.looked_at:,} of {found.codes:,} different codes compared"
    if found.stopped:
        return element("p", f"{what}. The time was over: {far}.", class_="summary")
    return element("p", f"{what} so far: {far} …", class_="progress", data_again="1500", role="status")
