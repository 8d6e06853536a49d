# A gRPC server with the health service, by Google's own protobuf and grpcio. Told on its input what it says of itself:
# "NAME STATUS", with "-" for the server as a whole.
import sys
import threading
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

try:
    from google.protobuf.message_factory import GetMessageClass as message_class
except ImportError:
    from google.protobuf.message_factory import MessageFactory

    def message_class(descriptor):
        return MessageFactory().GetPrototype(descriptor)


def messages():
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package="grpc.health.v1", syntax="proto3")
    optional = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING, label=optional)
    answer = file.message_type.add(name="HealthCheckResponse")
    kind = answer.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        kind.value.add(name=name, number=number)
    answer.field.add(
        name="status",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_ENUM,
        type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus",
        label=optional,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    names = ("grpc.health.v1.HealthCheckRequest", "grpc.health.v1.HealthCheckResponse")
    return [message_class(find(name)) for name in names]


Request, Answer = messages()
says = {"": "SERVING"}


def check(request, context):
    if request.service not in says:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return Answer(status=Answer.DESCRIPTOR.enum_types_by_name["ServingStatus"].values_by_name[says[request.service]].number)


handler = grpc.unary_unary_rpc_method_handler(
    check, request_deserializer=Request.FromString, response_serializer=Answer.SerializeToString
)
health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), handlers=(health,))
address, *pair = sys.argv[1:]
if pair:
    key, cert = [open(name, "rb").read() for name in pair]
    assert server.add_secure_port(address, grpc.ssl_server_credentials([(key, cert)]))
else:
    assert server.add_insecure_port(address)
server.start()
print("ready", flush=True)
for line in sys.stdin:
    name, status = line.split()
    says["" if name == "-" else name] = status
    print("set", flush=True)
server.stop(1).wait()
