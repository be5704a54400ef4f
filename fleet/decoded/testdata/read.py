"""Reads a topic with Confluent's client and its deserializers, to the first record that is none of theirs (a mark), and writes one JSON object a record.

usage: read.py BROKER REGISTRY TOPIC json|proto DESCRIPTOR MESSAGE
"""
import json
import sys

from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

broker, registry, topic, form, descriptor, message = sys.argv[1:]
client = SchemaRegistryClient({"url": registry})
if form == "json":
    read = JSONDeserializer(None, schema_registry_client=client)
else:
    pool = descriptor_pool.DescriptorPool()
    with open(descriptor, "rb") as f:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(f.read()))
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("waybill.decoded.v1." + message))
    # Without the client: it asks for schemas as serialized descriptors, which Apicurio does not give. What it gives by the id is looked at below.
    read = ProtobufDeserializer(kind, {"use.deprecated.format": False})
consumer = Consumer({"bootstrap.servers": broker, "group.id": "read", "auto.offset.reset": "earliest", "isolation.level": "read_committed"})
consumer.subscribe([topic])
left = 4
while left > 0:
    m = consumer.poll(60)
    if m is None or m.error():
        sys.exit("%s: %s" % (topic, m and m.error()))
    if m.value().startswith(b"mark "):
        left -= 1
        continue
    schema = client.get_schema(int.from_bytes(m.value()[1:5], "big"), topic + "-value")
    if schema.schema_type != {"json": "JSON", "proto": "PROTOBUF"}[form] or message not in schema.schema_str:
        sys.exit("%s: the registry's schema is %s" % (topic, schema.schema_type))
    v = read(m.value(), SerializationContext(topic, MessageField.VALUE))
    if form == "proto":
        v = json_format.MessageToDict(v, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    print(json.dumps(v))
consumer.close()
