"""The document around a picture: ids, escaping, both palettes, and room for a text."""

import re
from xml.etree import ElementTree

from labserver.stage.pictures.sheet import Sheet


def test_ids_differ_between_pictures_of_one_name() -> None:
    first, second = Sheet("same name", "one"), Sheet("same name", "two")
    ids = [ElementTree.fromstring(sheet.svg(100)).get("aria-labelledby") for sheet in (first, second)]
    assert ids[0] != ids[1]
    assert str(ids[0]).startswith("tape-same-name-")


def test_text_is_escaped_and_free_of_what_xml_forbids() -> None:
    sheet = Sheet("<&>", "a < b & c", "\x00")
    sheet.text(10, 20, 'x<y>&"\x01')
    root = ElementTree.fromstring(sheet.svg(50))
    assert [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")] == ['x<y>&"·']


def test_every_colour_has_one_for_the_dark() -> None:
    sheet = Sheet("colours", "all roles")
    roles = ("card", "edge", "band", "mute", "ink", "hot")
    for role in roles:
        sheet.rect(0, 0, 1, 1, role)
    style = sheet.svg(10).partition("<style>")[2].partition("</style>")[0]
    for role in roles:
        assert len(set(re.findall(rf"--{role}:(#[0-9a-f]{{6}})", style))) == 2


def test_a_place_is_free_until_a_text_stands_there() -> None:
    sheet = Sheet("room", "room")
    place = sheet.box(100, 50, "label", mono=True)
    assert sheet.free(place)
    sheet.text(90, 50, "label", mono=True)
    assert not sheet.free(place)
    assert sheet.free(sheet.box(100, 80, "label"))
    assert not sheet.free(sheet.box(830, 80, "over the edge"))
