"""What a teacher of the tests says to a prompt about a chain of the drawn world. Functions of a module: the server that
calls them is another process."""

import json
import re

from throughline.drawn.concepts import PARTS, contrast_of

DENIAL = r"(?:no|without any|without the|absent) (?:\w+ ){0,1}"


def relations_of(prompt: str) -> list[dict[str, str]]:
    """The parts that the chain's REASONING finds or misses, as relations of its class."""
    label = re.findall(r"<CONCLUSION> (\w+) </CONCLUSION>", prompt)[-1]
    reasoning = re.findall(r"<REASONING>(.*?)</REASONING>", prompt)[-1]
    named = [part for part in PARTS if re.search(rf"\b{part}\b", reasoning)]
    missing = {p for p in named if re.search(rf"\b{DENIAL}{p}\b|\b{p}, (?:is|are) absent", reasoning)}
    return [{"class": label, "attribute": part, "relation": "-" if part in missing else "+"} for part in named]


def lists_relations(prompt: str) -> str:
    """As chatty as teachers are."""
    return "Here they are:\n```json\n" + json.dumps(relations_of(prompt)) + "\n```"


def rewrites(prompt: str) -> str:
    """Of a bowl the chain of a cup; of a boat that of a raft, with another part gone, too; other chains as they are."""
    chain = re.findall(r"<SUMMARY>.*?</CONCLUSION>", prompt, re.DOTALL)[-1]
    label = re.findall(r"<CONCLUSION> (\w+) </CONCLUSION>", chain)[-1]
    said = {"bowl": "i find a handle.", "boat": "i find no sail and no hull."}.get(label)
    if said is None:
        return chain
    chain = re.sub(r"[^.<>]*\.(?= </REASONING>)", f" {said}", chain)
    chain = re.sub(r"<REFLECTION>.*?</REFLECTION>", "<REFLECTION> all agrees. </REFLECTION>", chain)
    return chain.replace(f"<CONCLUSION> {label} ", f"<CONCLUSION> {contrast_of(label)} ")
