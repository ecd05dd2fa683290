#!/usr/bin/env python3
"""The live page in a real browser, before a running daemon: what a person would do, checked step by step.

    tests/browser/page.py PROGRAM [--screenshots DIR]

PROGRAM is facelatch; the frames are those of its demo, made of the public-domain portraits in tests/data. The browser is Chromium
without a window, driven through chromedriver (WebDriver, https://www.w3.org/TR/webdriver2/). Ends with 0 if every step did what it should.
"""

import argparse
import base64
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# A configuration that others can write is refused.
os.umask(0o022)

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(what, seconds, condition, pause=0.1):
    """What `condition` gives as soon as that is something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds} s")


class Browser:
    """One window."""

    def __init__(self, driver, downloads, width, height, phone, dark):
        self.driver = driver
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
        if dark:
            arguments.append("--force-dark-mode")
        options = {"args": arguments, "prefs": {"download.default_directory": str(downloads)}}
        if phone:
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2, "touch": True}}
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
        self.session = "/session/" + answer["sessionId"]
        self.cdp("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.driver + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def cdp(self, command, parameters):
        return self.call("POST", self.session + "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def go(self, url):
        self.call("POST", self.session + "/url", {"url": url})

    def run(self, script, *arguments):
        return self.call("POST", self.session + "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        return self.call("POST", self.session + "/element", {"using": "css selector", "value": selector})

    def click(self, selector):
        element = self.find(selector)[ELEMENT]
        self.call("POST", f"{self.session}/element/{element}/click", {})

    def write(self, selector, text):
        element = self.find(selector)[ELEMENT]
        self.call("POST", f"{self.session}/element/{element}/clear", {})
        self.call("POST", f"{self.session}/element/{element}/value", {"text": text})

    def text(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText ?? e.textContent).join('\\n')", selector)

    def shown(self, selector):
        return self.run("const e = document.querySelector(arguments[0]); return !!e && e.checkVisibility()", selector)

    def picture_of(self, selector):
        element = self.find(selector)[ELEMENT]
        return self.call("GET", f"{self.session}/element/{element}/screenshot")

    def screenshot(self, path, whole=False):
        options = {"format": "webp", "quality": 88, "captureBeyondViewport": whole}
        path.write_bytes(base64.b64decode(self.cdp("Page.captureScreenshot", options)["data"]))

    def log(self):
        return self.call("POST", self.session + "/se/log", {"type": "browser"})

    def close(self):
        self.call("DELETE", self.session)


def configuration(folder, frames, port, password_line):
    return f"""
mode = "unlock"
[camera]
source = "files"
folder = "{frames}"
fps = 5
repeat = true
[models]
dir = "{ROOT / 'models'}"
[recognition]
visit_gap = "1s"
max_decision_age = "5s"
[enroll]
folder = "{folder / 'enroll'}"
keep_unknown = 20
[store]
path = "{folder / 'store'}"
[latch]
backend = "simulated"
line = 17
hold = "1s"
[control]
socket = "{folder / 'control.sock'}"
[http]
enabled = true
listen = "127.0.0.1:{port}"
{password_line}
"""


def steps(browser, folder, url):
    def step(text):
        print(f"  ok  {text}", flush=True)

    browser.go(url)
    wait("the form to log in", 10, lambda: browser.shown("#login-form"))
    browser.write("#password", "a guess")
    browser.click("#login-form button")
    wait("a wrong password is refused", 10, lambda: "wrong password" in browser.text("#login-problem"))
    browser.write("#password", PASSWORD)
    browser.click("#login-form button")
    wait("the page of the door", 10, lambda: browser.shown("#door"))
    step("a wrong password is refused, the right one lets in")

    wait("a picture", 10, lambda: browser.run("return document.getElementById('picture').naturalWidth") == 640)
    first = browser.picture_of("#picture")
    wait("the picture changes", 20, lambda: browser.picture_of("#picture") != first, 0.3)
    step("the live picture changes")

    wait("a known face with its name", 60, lambda: "Barack Obama" in browser.text("#overlay text"))
    assert "Barack Obama" in browser.text("#faces .known"), browser.text("#faces")
    wait("the decision as it falls", 10, lambda: "Barack Obama" in browser.text("#decision"))
    wait("the visit in the list", 10, lambda: "Barack Obama" in browser.text("#visit-list"))
    wait("the person in the attendance of the day", 10, lambda: "Barack Obama" in browser.text("#day-list"))
    wait("when the person was seen last", 10, lambda: "seen" in browser.text("#people-list li:first-child small:first-of-type") and "not seen" not in browser.text("#people-list li:first-child small:first-of-type"))
    step("a known person is named, let in, listed and counted")

    # Whoever is in view now and unknown is enrolled from the camera.
    wait("an unknown face in view", 60, lambda: browser.shown("#faces .unknown button"), 0.05)
    browser.click("#faces .unknown button")
    browser.write("#ask-name", "Eileen Collins")
    browser.click("#ask-yes")
    wait("the verdict", 30, lambda: "Eileen Collins is enrolled" in browser.text("#ask-title"))
    assert "Eileen Collins/camera-" in browser.text("#ask-result .good")
    browser.click("#ask-no")
    assert list((folder / "enroll/Eileen Collins").glob("camera-*.jpg")), "the enroll folder is the truth"
    wait("the person in the list", 10, lambda: "Eileen Collins" in browser.text("#people-list"))
    step("somebody in view is enrolled from the camera")

    wait("an unknown face that was kept", 90, lambda: browser.shown("#unknown-list img"))
    wait("its picture", 10, lambda: browser.run("return document.querySelector('#unknown-list img').naturalWidth > 40"))
    # Grace Hopper: Eileen Collins, who was kept too if she was refused before she was enrolled, is unknown no longer.
    picture = browser.run("return document.querySelector('#unknown-list img').src")
    browser.click("#unknown-list button")
    browser.write("#ask-name", "Grace Hopper")
    browser.click("#ask-yes")
    wait("the verdict", 30, lambda: "Grace Hopper is enrolled" in browser.text("#ask-title"))
    browser.click("#ask-no")
    pictures = "return [...document.querySelectorAll('#unknown-list img')].map((e) => e.src)"
    wait("she is unknown no longer", 10, lambda: picture not in browser.run(pictures))
    step("an unknown face is named")
    wait("she is let in", 90, lambda: "Grace Hopper" in browser.text("#visit-list .granted"))
    step("and let in the next time")

    browser.click("#open")
    wait("a question", 5, lambda: browser.shown("#ask"))
    browser.click("#ask-no")
    assert "Opened by hand" not in browser.text("#visit-list")
    browser.click("#open")
    browser.click("#ask-yes")
    wait("the record of it", 10, lambda: "Opened by hand" in browser.text("#visit-list"))
    step("the door is opened, after a question")

    browser.click("#csv")
    files = wait("the download", 20, lambda: list((folder / "downloads").glob("*.csv")))
    text = files[0].read_text()
    assert text.splitlines()[0].lower().startswith("date,") or "person" in text.splitlines()[0].lower(), text
    assert "Barack Obama" in text, text
    step(f"the attendance of the month is downloaded: {len(text.splitlines()) - 1} rows")

    errors = [entry["message"] for entry in browser.log() if entry["level"] == "SEVERE" and " 401 " not in entry["message"]]
    assert not errors, errors
    step("the browser found nothing to complain about")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--screenshots", type=pathlib.Path, default=ROOT / "target/browser")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    arguments.screenshots.mkdir(parents=True, exist_ok=True)
    running = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "downloads").mkdir()
        try:
            print("the demo's frames", flush=True)
            subprocess.run([program, "demo", "--pictures", ROOT / "tests/data", "--models", ROOT / "models", "--out", folder / "demo"],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            (folder / "enroll").mkdir()
            for portrait, name in [("barack_obama_1", "Barack Obama"), ("joe_biden_1", "Joe Biden")]:
                (folder / "enroll" / f"{name}.png").write_bytes((ROOT / "tests/data" / f"{portrait}.png").read_bytes())
            line = subprocess.run([program, "password"], input=PASSWORD, text=True, check=True, stdout=subprocess.PIPE).stdout
            port = free_port()
            (folder / "facelatch.toml").write_text(configuration(folder, folder / "demo/frames", port, line))
            log = (folder / "log").open("w")
            running.append(subprocess.Popen([program, "--config", folder / "facelatch.toml", "run"], stderr=log))
            driver_port = free_port()
            running.append(subprocess.Popen(["chromedriver", f"--port={driver_port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            driver, url = f"http://127.0.0.1:{driver_port}", f"http://localhost:{port}/"

            def answers(address):
                try:
                    urllib.request.urlopen(address, timeout=2).close()
                    return True
                except OSError:
                    return False

            wait("the page", 30, lambda: answers(url))
            wait("chromedriver", 30, lambda: answers(driver + "/status"))
            print("the page in a browser", flush=True)
            browser = Browser(driver, folder / "downloads", 1280, 1180, phone=False, dark=False)
            try:
                steps(browser, folder, url)
                browser.run("scrollTo(0, 0); document.activeElement.blur()")
                wait("a face for the picture", 60, lambda: browser.shown("#overlay .known text") and "let in" in browser.text("#decision"))
                browser.screenshot(arguments.screenshots / "page.webp")
            finally:
                browser.close()
            phone = Browser(driver, folder / "downloads", 390, 844, phone=True, dark=True)
            try:
                phone.go(url)
                wait("the form to log in", 10, lambda: phone.shown("#login-form"))
                phone.write("#password", PASSWORD)
                phone.click("#login-form button")
                wait("the page of the door", 10, lambda: phone.shown("#door"))
                wait("a picture", 20, lambda: phone.run("return document.getElementById('picture').naturalWidth") == 640)
                wait("a face for the picture", 60, lambda: phone.shown("#overlay .known text") and "let in" in phone.text("#decision"))
                assert phone.run("return document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the phone"
                phone.screenshot(arguments.screenshots / "page-phone.webp")
                phone.screenshot(arguments.screenshots / "page-phone-whole.webp", whole=True)
            finally:
                phone.close()
            print(f"  ok  on a phone too; screenshots: {arguments.screenshots}")
        except AssertionError as error:
            print(f"FAILED: {error}\nthe daemon's log:\n{(folder / 'log').read_text() if (folder / 'log').exists() else ''}")
            return 1
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(20)
    return 0


if __name__ == "__main__":
    sys.exit(main())
