"""A passenger's journey through the proxy, over both sides of one store."""

import json

from conftest import Airline, Banyan, curl, header


def test_a_journey_from_login_to_points(start):
    airline = start(Airline)
    proxy = start(Banyan, airline.rules())
    status, headers, _ = curl("-d", "user=kim", proxy.url + "/login")
    session = header(headers, "set-cookie").split(";")[0]
    assert status == 302 and session.startswith("SESSIONID=")
    assert "Welcome back, kim" in curl("-b", session, proxy.url + "/")[2].decode()
    body = json.dumps({"flight": "BA010", "passenger": "Kim", "member": "kim"})
    send = ["-b", session, "-H", "Content-Type: application/json"]

    def points(side):
        path = proxy.url if side == "serverless" else f"http://127.0.0.1:{airline.legacy}"
        return json.loads(curl(f"{path}/api/loyalty/kim")[2])["points"]

    before = points("legacy")
    # Booked as staff on serverless, paid on whichever side the session has, read on both.
    status, headers, answer = curl(*send, "-H", "X-Staff: true", "-d", body, proxy.url + "/api/bookings")
    booking = json.loads(answer)
    assert status == 201 and "side=serverless" in header(headers, "x-banyan") and header(headers, "location") == f"/api/bookings/{booking['id']}"
    status, _, answer = curl(*send, "-d", json.dumps({"booking": booking["id"]}), proxy.url + "/api/payments")
    assert status == 200 and json.loads(answer)["paid"] is True
    assert json.loads(curl("-b", session, f"{proxy.url}/api/bookings/{booking['id']}")[2])["paid"] is True
    assert points("legacy") == points("serverless") == before + 232
    writes = [entry["what"] for entry in airline.ledger()["entries"]]
    assert writes == ["POST /login", "POST /api/bookings", "POST /api/payments"], "each write arrived once"


def test_soap_and_the_korean_page_pass_untouched(start):
    airline = start(Airline)
    proxy = start(Banyan, airline.rules())

    def quote(flight):
        envelope = f'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><q:GetFareQuote xmlns:q="urn:x"><q:Flight>{flight}</q:Flight></q:GetFareQuote></s:Body></s:Envelope>'
        return curl("-H", "Content-Type: text/xml", "-d", envelope, proxy.url + "/soap/fares")

    status, headers, body = quote("BA010")
    assert status == 200 and b">232.70<" in body and header(headers, "content-type").startswith("text/xml")
    status, _, body = quote("NOPE")
    assert status == 500 and b"soap:Fault" in body
    _, headers, body = curl(proxy.url + "/kr/notice")
    assert header(headers, "content-type") == "text/html; charset=euc-kr" and "공지" in body.decode("euc-kr")


def test_the_functions_differ_where_they_say_they_do(start):
    airline = start(Airline)
    proxy = start(Banyan, airline.rules())

    def both(path, *args):
        legacy = curl(*args, f"http://127.0.0.1:{airline.legacy}{path}")
        serverless = curl(*args, "-H", "X-Staff: true", proxy.url + path)
        assert "side=serverless" in header(serverless[1], "x-banyan")
        return (legacy[0], json.loads(legacy[2])), (serverless[0], json.loads(serverless[2]))

    (_, old), (_, new) = both("/api/flights/BA010")
    assert old["price"] == "232.70" and new["price"] == 232.7 and "traceId" in new and "traceId" not in old
    (_, old), (_, new) = both("/api/flights?from=ICN")
    assert {f["id"] for f in old["flights"]} == {f["id"] for f in new["flights"]}
    prices = [f["price"] for f in new["flights"]]
    assert prices == sorted(prices) and [f["id"] for f in old["flights"]] != [f["id"] for f in new["flights"]]
    (old, _), (new, _) = both("/api/bookings", "-H", "Content-Type: application/json", "-d", '{"flight": "NOPE"}')
    assert (old, new) == (422, 400)
