# An S3 server of moto's on a free port of this machine, with a bucket. It says its port, and ends when its standard input does.
import sys
import threading

try:
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server
except ImportError as error:
    print(f"no moto: {error}", flush=True)
    sys.exit()

# One request after the other: moto's buckets do not bear several threads.
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = boto3.client(
    "s3",
    endpoint_url=f"http://127.0.0.1:{server.server_port}",
    region_name="us-east-1",
    aws_access_key_id="any",
    aws_secret_access_key="any",
)
client.create_bucket(Bucket="raglan")
print(server.server_port, flush=True)
sys.stdin.read()
