"""A Kubernetes API over HTTPS with a kubeconfig, and nothing between: a client library's rate limits would be measured too."""
import base64
import http.client
import json
import re
import ssl
import tempfile
import urllib.parse


class Failed(Exception):
    """An answer that is neither success, nor that something is there already or is not there."""


class Api:
    def __init__(self, kubeconfig):
        with open(kubeconfig) as text:
            fields = dict(re.findall(r'"?([a-z-]+)"?: "?([^"\s,]+)', text.read()))
        self.context = ssl.create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.context.load_cert_chain(pem(fields, "client-certificate"), pem(fields, "client-key"))
        self.server = urllib.parse.urlparse(fields["server"])
        self.again()

    def connect(self):
        return http.client.HTTPSConnection(self.server.hostname, self.server.port, context=self.context, timeout=60)

    def again(self):
        self.connection = self.connect()

    def ask(self, method, path, body=None, patch=False):
        """The answer; None where the object is not there, or is there already."""
        headers = {"Content-Type": "application/merge-patch+json" if patch else "application/json"}
        try:
            self.connection.request(method, path, body and json.dumps(body), headers)
            answer = self.connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        if answer.status in (404, 409):
            return None
        if answer.status >= 300:
            raise Failed(f"{method} {path}: {answer.status} {text[:300]}")
        return json.loads(text)

    def watch(self, path):
        """Events, as they come."""
        connection = self.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        while line := answer.readline():
            yield json.loads(line)


def pem(fields, name):
    """The file that a kubeconfig names, or one with what it holds."""
    if name in fields:
        return fields[name]
    with tempfile.NamedTemporaryFile(delete=False) as out:
        out.write(base64.b64decode(fields[f"{name}-data"]))
    return out.name
