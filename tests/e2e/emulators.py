"""AWS on loopback, by programs we did not write: ministack (the services), cargo-lambda (the Lambda APIs), serverless-offline (a
second implementation of the gateways). Management calls are signed here by hand, so that no SDK hides what goes over the wire."""

import base64
import datetime
import hashlib
import hmac
import http.client
import http.server
import io
import json
import os
import pathlib
import queue
import re
import signal
import struct
import sys
import threading
import urllib.parse
import uuid
import zipfile
import zlib

from conftest import ROOT, TARGET, Process, is_open, lease_port, wait_for

REGION, ACCOUNT = "eu-west-1", "000000000000"
# The emulator's root: never checked by it, so nothing is proved with it.
ROOT_KEY = ("test", "test", None)
BIN = os.path.dirname(sys.executable)


class Response:
    def __init__(self, status, headers, body):
        self.status, self.body = status, body
        self.headers = [(name.lower(), value) for name, value in headers]

    def header(self, name):
        return next((value for known, value in self.headers if known == name), None)

    def all(self, name):
        return [value for known, value in self.headers if known == name]

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.headers} {self.body[:500]!r}"


def send(port, method, target, headers=(), body=None, host=None, timeout=60):
    """One request, byte for byte: the target as given, headers as a list of pairs."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    headers = list(headers.items() if isinstance(headers, dict) else headers)
    names = [name.lower() for name, _ in headers]
    if "host" not in names:
        headers.insert(0, ("Host", host or f"127.0.0.1:{port}"))
    if body is not None and "content-length" not in names and "transfer-encoding" not in names:
        headers.append(("Content-Length", str(len(body))))
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders(body, encode_chunked="transfer-encoding" in names)
    answer = connection.getresponse()
    result = Response(answer.status, answer.getheaders(), answer.read())
    connection.close()
    return result


def signed(method, target, headers, body, key, service, region=REGION):
    """The headers with a Signature Version 4."""
    quote = lambda text, safe: urllib.parse.quote(text, safe=safe)  # noqa: E731
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {**headers, "X-Amz-Date": stamp}
    if key[2]:
        headers["X-Amz-Security-Token"] = key[2]
    path, _, query = target.partition("?")
    pairs = [pair.partition("=")[::2] for pair in query.split("&") if pair]
    unquote = urllib.parse.unquote
    query = "&".join(sorted(f"{quote(unquote(name), '-_.~')}={quote(unquote(value), '-_.~')}" for name, value in pairs))
    lower = {name.lower(): " ".join(str(value).split()) for name, value in headers.items()}
    names = ";".join(sorted(lower))
    lines = "".join(f"{name}:{lower[name]}\n" for name in sorted(lower))
    canonical = "\n".join([method, quote(path, "/-_.~"), query, lines, names, hashlib.sha256(body).hexdigest()])
    scope = f"{day}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    secret = ("AWS4" + key[1]).encode()
    for part in (day, region, service, "aws4_request"):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={key[0]}/{scope}, SignedHeaders={names}, Signature={signature}"
    return headers


def zipped(files):
    """Executable, because a bootstrap has to be."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = 0o100755 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return base64.b64encode(buffer.getvalue()).decode()


class Ministack(Process):
    end_signal = signal.SIGINT

    def __init__(self, folder, auth=False, port=None, **env):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or lease_port()
        settings = {
            "PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": self.port,
            "MINISTACK_REGION": REGION, "AUTH": "true" if auth else "false", "LOG_LEVEL": "WARNING", "STATE_DIR": folder / "state",
            "S3_DATA_DIR": folder / "s3", "PERSIST_STATE": "0", "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0",
            "DOCKER_HOST": "unix:///nonexistent.sock", **env,
        }
        super().__init__([f"{BIN}/ministack"], folder, folder / "log", env={name: str(value) for name, value in settings.items()})
        wait_for(f"ministack: {self.text()}", self.ready, seconds=60)
        if auth:
            self.role("lambda-role")

    def ready(self):
        assert self.popen.poll() is None, self.text()
        try:
            return send(self.port, "GET", "/_ministack/ready", timeout=5).status == 200
        except OSError:
            return False

    def stop(self, sig=signal.SIGINT, seconds=20):
        """Workers die with the reset only; after SIGKILL they would be left behind."""
        if self.popen.poll() is None and sig != signal.SIGKILL:
            try:
                send(self.port, "POST", "/_ministack/reset", timeout=30)
            except OSError:
                pass
        return super().stop(sig, seconds)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def call(self, service, method, target, data=None, headers=None, key=ROOT_KEY, host=None):
        headers = {"Host": host or f"127.0.0.1:{self.port}", **(headers or {})}
        body = b""
        if isinstance(data, (dict, list)):
            body, headers["Content-Type"] = json.dumps(data).encode(), "application/json"
        elif isinstance(data, str):
            body, headers["Content-Type"] = data.encode(), "application/x-www-form-urlencoded"
        elif data is not None:
            body = data
        return send(self.port, method, target, signed(method, target, headers, body, key, service), body)

    def query(self, service, version, action, key=ROOT_KEY, **parameters):
        form = urllib.parse.urlencode({"Action": action, "Version": version, **parameters})
        answer = self.call(service, "POST", "/", form, key=key)
        assert answer.status == 200, answer
        return answer.body.decode()

    def function(self, name, code, runtime="python3.12", handler="index.handler", timeout=10, memory=128, env=None):
        """`code` is the text of index.py, or the files of the archive."""
        files = code if isinstance(code, dict) else {"index.py": code}
        answer = self.call("lambda", "POST", "/2015-03-31/functions", {
            "FunctionName": name, "Runtime": runtime, "Role": f"arn:aws:iam::{ACCOUNT}:role/lambda-role", "Handler": handler,
            "Timeout": timeout, "MemorySize": memory, "Environment": {"Variables": env or {}}, "Code": {"ZipFile": zipped(files)},
        })
        assert answer.status == 201, answer
        return answer.json()["FunctionArn"]

    def alias(self, name, alias):
        version = self.call("lambda", "POST", f"/2015-03-31/functions/{name}/versions", {}).json()["Version"]
        answer = self.call("lambda", "POST", f"/2015-03-31/functions/{name}/aliases", {"Name": alias, "FunctionVersion": version})
        assert answer.status == 201, answer

    def reserve(self, name, concurrency):
        target = f"/2017-10-31/functions/{name}/concurrency"
        if concurrency is None:
            return self.call("lambda", "DELETE", target)
        return self.call("lambda", "PUT", target, {"ReservedConcurrentExecutions": concurrency})

    def function_url(self, name, auth="NONE"):
        """The host it is called by."""
        answer = self.call("lambda", "POST", f"/2021-10-31/functions/{name}/url", {"AuthType": auth})
        assert answer.status == 201, answer
        return urllib.parse.urlsplit(answer.json()["FunctionUrl"]).netloc

    def rest_api(self, arn, stage="prod", key_required=False, auth="NONE"):
        """Everything to one function; the id of the API."""
        call = lambda method, path, data=None: self.call("apigateway", method, path, data)  # noqa: E731
        api = call("POST", "/restapis", {"name": "r", "binaryMediaTypes": ["*/*"]}).json()["id"]
        resources = call("GET", f"/restapis/{api}/resources").json()
        root = (resources.get("item") or resources["_embedded"]["item"])[0]["id"]
        proxy = call("POST", f"/restapis/{api}/resources/{root}", {"pathPart": "{proxy+}"}).json()["id"]
        uri = f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{arn}/invocations"
        for resource in (root, proxy):
            at = f"/restapis/{api}/resources/{resource}/methods/ANY"
            call("PUT", at, {"authorizationType": auth, "apiKeyRequired": key_required})
            call("PUT", f"{at}/integration", {"type": "AWS_PROXY", "httpMethod": "POST", "uri": uri})
        answer = call("POST", f"/restapis/{api}/deployments", {"stageName": stage})
        assert answer.status == 201, answer
        return api

    def api_key(self, api, stage="prod", throttle=None):
        value = self.call("apigateway", "POST", "/apikeys", {"name": "k", "enabled": True}).json()
        plan = {"name": "p", "apiStages": [{"apiId": api, "stage": stage}], **({"throttle": throttle} if throttle else {})}
        plan = self.call("apigateway", "POST", "/usageplans", plan).json()["id"]
        answer = self.call("apigateway", "POST", f"/usageplans/{plan}/keys", {"keyId": value["id"], "keyType": "API_KEY"})
        assert answer.status == 201, answer
        return value["value"]

    def load_balancer(self, arn, name, multi_value=False):
        """The host it is called by."""
        elb = lambda action, **parameters: self.query("elasticloadbalancing", "2015-12-01", action, **parameters)  # noqa: E731
        pick = lambda text, tag: re.search(f"<{tag}>([^<]+)</{tag}>", text).group(1)  # noqa: E731
        made = elb("CreateLoadBalancer", Name=name)
        group = pick(elb("CreateTargetGroup", Name=f"{name}-tg", TargetType="lambda"), "TargetGroupArn")
        elb("RegisterTargets", TargetGroupArn=group, **{"Targets.member.1.Id": arn})
        if multi_value:
            attribute = {"Attributes.member.1.Key": "lambda.multi_value_headers.enabled", "Attributes.member.1.Value": "true"}
            elb("ModifyTargetGroupAttributes", TargetGroupArn=group, **attribute)
        action = {"DefaultActions.member.1.Type": "forward", "DefaultActions.member.1.TargetGroupArn": group}
        elb("CreateListener", LoadBalancerArn=pick(made, "LoadBalancerArn"), Protocol="HTTP", Port="80", **action)
        return pick(made, "DNSName")

    def user(self, name, *actions):
        """A user with these rights and a key that the emulator really checks."""
        self.query("iam", "2010-05-08", "CreateUser", UserName=name)
        if actions:
            policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}
            self.query("iam", "2010-05-08", "PutUserPolicy", UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
        made = self.query("iam", "2010-05-08", "CreateAccessKey", UserName=name)
        return tuple(re.search(f"<{tag}>(.*?)<", made).group(1) for tag in ("AccessKeyId", "SecretAccessKey")) + (None,)

    def role(self, name, *actions, principal=None, conditions=None):
        statement = lambda who, what: {"Effect": "Allow", "Principal": who, "Action": what}  # noqa: E731
        trust = [statement({"AWS": "*"}, "sts:AssumeRole"), statement({"Service": "lambda.amazonaws.com"}, "sts:AssumeRole")]
        if principal:
            trust.append(statement({"Federated": principal}, "sts:AssumeRoleWithWebIdentity"))
        trust = {"Version": "2012-10-17", "Statement": trust}
        self.query("iam", "2010-05-08", "CreateRole", RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        if actions:
            policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}
            self.query("iam", "2010-05-08", "PutRolePolicy", RoleName=name, PolicyName="p", PolicyDocument=json.dumps(policy))

    def session(self, role, seconds, key=ROOT_KEY):
        """A key with a token that ends."""
        arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
        text = self.query("sts", "2011-06-15", "AssumeRole", key=key, RoleSessionName="s", DurationSeconds=seconds, RoleArn=arn)
        return tuple(re.search(f"<{tag}>(.*?)<", text).group(1) for tag in ("AccessKeyId", "SecretAccessKey", "SessionToken"))


def environment(key):
    """What the SDKs, and we, read a key from. The metadata service of whatever machine this is has nothing to say."""
    names = {"AWS_ACCESS_KEY_ID": key[0], "AWS_SECRET_ACCESS_KEY": key[1], "AWS_EC2_METADATA_DISABLED": "true"}
    return {**names, **({"AWS_SESSION_TOKEN": key[2]} if key[2] else {})}


FUNCTIONS = pathlib.Path(os.environ.get("BANYAN_TEST_FUNCTIONS", TARGET / "functions/debug")) / "bootstrap"


class Instance(Process):
    """One instance of an airline function, run against a Runtime API as Lambda runs it."""

    def __init__(self, folder, name, runtime_api, env=None):
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "PATH": os.environ["PATH"], "AWS_LAMBDA_RUNTIME_API": runtime_api, "_HANDLER": name, "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128", "AWS_REGION": REGION, **(env or {}),
        }
        super().__init__([FUNCTIONS], folder, folder / "log", env=settings)


class CargoLambda(Process):
    """The Lambda APIs of cargo-lambda. It knows functions by the binaries of a cargo project, which it never builds."""

    end_signal = signal.SIGTERM

    def __init__(self, folder, *functions):
        folder.mkdir(parents=True, exist_ok=True)
        bins = "".join(f'[[bin]]\nname = "{name}"\npath = "/dev/null"\n' for name in functions)
        (folder / "Cargo.toml").write_text(f'[package]\nname = "functions"\nversion = "0.1.0"\nedition = "2024"\n{bins}')
        self.port = lease_port()
        command = [f"{BIN}/cargo-lambda", "lambda", "watch", "--only-lambda-apis", "--disable-cors", "-A", "127.0.0.1", "-P", self.port]
        super().__init__(command, folder, folder / "log")
        wait_for(f"cargo-lambda: {self.text()}", self.ready, seconds=60)

    def ready(self):
        assert self.popen.poll() is None, self.text()
        return is_open(self.port) and send(self.port, "GET", "/2015-03-31/functions/_/invocations", timeout=5).status == 405

    def runtime_api(self, name):
        return f"http://127.0.0.1:{self.port}/.rt/{name}"


class StreamApi:
    """InvokeWithResponseStream as AWS documents it, over the real Runtime API of a real instance: each chunk the function sends becomes a
    PayloadChunk at once. Neither emulator has it: both collect the answer first, and take the prelude out of it."""

    end_signal = None

    def __init__(self, folder):
        self.events, self.answers = queue.Queue(), {}
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def chunks(self):
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    return
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass

            def whole(self, status, body=b"", headers=()):
                self.send_response(status)
                for name, value in [*headers, ("Content-Length", len(body))]:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                identity, event = api.events.get()
                self.whole(200, event, [("Lambda-Runtime-Aws-Request-Id", identity), ("Lambda-Runtime-Deadline-Ms", "4102444800000"),
                                        ("Lambda-Runtime-Invoked-Function-Arn", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f")])

            def do_POST(self):
                if self.path.endswith("/response-streaming-invocations"):
                    return self.invoke()
                answer = api.answers[self.path.rsplit("/", 2)[1]]
                if self.path.endswith("/error"):
                    answer.put(("failed", b"".join(self.chunks())))
                else:
                    # AWS's own Rust runtime writes the trailers of an error as the last chunk.
                    failed = b""
                    for chunk in self.chunks():
                        if chunk.startswith(b"Lambda-Runtime-Function-Error-Type"):
                            failed = chunk
                        else:
                            answer.put(("chunk", chunk))
                    answer.put(("failed", failed) if failed else ("end", b""))
                self.whole(202)

            def invoke(self):
                identity, answer = str(uuid.uuid4()), queue.Queue()
                api.answers[identity] = answer
                api.authorization = self.headers.get("Authorization")
                api.events.put((identity, b"".join(self.chunks())))
                self.send_response(200)
                self.send_header("Content-Type", "application/vnd.amazon.eventstream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while True:
                    kind, data = answer.get(timeout=30)
                    if kind == "chunk":
                        self.frame("PayloadChunk", "application/octet-stream", data)
                        continue
                    log = base64.b64encode(b"REPORT RequestId: 1\tBilled Duration: 7 ms\tMemory Size: 128 MB\tMax Memory Used: 20 MB").decode()
                    error = {"ErrorCode": "Unhandled", "ErrorDetails": data.decode()} if kind == "failed" else {}
                    self.frame("InvokeComplete", "application/json", json.dumps({**error, "LogResult": log}).encode())
                    self.wfile.write(b"0\r\n\r\n")
                    return

            def frame(self, event, content_type, payload):
                headers = b""
                for name, value in ((":message-type", "event"), (":event-type", event), (":content-type", content_type)):
                    headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
                start = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
                message = start + struct.pack(">I", zlib.crc32(start)) + headers + payload
                message += struct.pack(">I", zlib.crc32(message))
                self.wfile.write(b"%x\r\n%b\r\n" % (len(message), message))
                self.wfile.flush()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # Either side may go away in the middle; that is what the tests are about.
        self.server.handle_error = lambda *_: None
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self, *_):
        self.server.shutdown()
        self.server.server_close()


OFFLINE = ROOT / "tests/offline"


class Offline(Process):
    """serverless-offline: the v1 and v2 gateways, and the Invoke API, of one function."""

    end_signal = signal.SIGTERM
    FUNCTION = "banyan-dev-mirror"

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.invoke = lease_port(), lease_port()
        settings = {
            "PATH": os.environ["PATH"], "HOME": folder, "CI": 1, "SLS_TELEMETRY_DISABLED": 1, "SLS_TRACKING_DISABLED": 1, "SLS_NOTIFICATIONS_MODE": "off",
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "HTTP_PORT": self.port, "LAMBDA_PORT": self.invoke,
            "WEBSOCKET_PORT": lease_port(), "ALB_PORT": lease_port(),
        }
        command = ["node", OFFLINE / "node_modules/serverless/bin/serverless.js", "offline", "start"]
        super().__init__(command, OFFLINE, folder / "log", env={name: str(value) for name, value in settings.items()})
        wait_for(f"serverless-offline: {self.text()}", lambda: self.popen.poll() is not None or is_open(self.port), seconds=90)
        assert self.popen.poll() is None, self.text()
