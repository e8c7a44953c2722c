"""What the shipped schemas say. `verdicts`: each line of standard input is a JSON array of a
reference into schema/event.schema.json and the text of an instance; prints true or false for each.
`asyncapi`: prints schema/asyncapi.yaml as JSON; with the path of a schema for such documents, checks
it against that first."""

import json
import pathlib
import sys

import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry, Resource

SCHEMAS = pathlib.Path(__file__).resolve().parents[2] / "schema"


def verdicts():
    schema = json.loads((SCHEMAS / "event.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    registry = Registry().with_resource(schema["$id"], Resource.from_contents(schema))
    validators = {}
    for line in sys.stdin:
        reference, instance = json.loads(line)
        if reference not in validators:
            root = {"$schema": schema["$schema"], "$ref": schema["$id"] + reference}
            validators[reference] = Draft202012Validator(root, registry=registry)
        print(json.dumps(validators[reference].is_valid(json.loads(instance))))


def asyncapi(checked_by=None):
    document = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())
    if checked_by:
        rules = json.loads(pathlib.Path(checked_by).read_text())
        errors = list(Draft7Validator(rules).iter_errors(document))
        if errors:
            sys.exit("\n".join(f"{list(e.absolute_path)}: {e.message}" for e in errors))
    print(json.dumps(document))


if __name__ == "__main__":
    {"verdicts": verdicts, "asyncapi": asyncapi}[sys.argv[1]](*sys.argv[2:])
