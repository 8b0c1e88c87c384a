"""Opens pages in a browser without a network."""


def open_page(browser, path):
  """Opens a page, checks that it loads every picture without console messages or requests, and returns their names."""
  opened = browser.new_page(viewport={"width": 1240, "height": 900})
  messages, requests = [], []
  opened.on("console", lambda message: messages.append(message.text))
  opened.on("pageerror", lambda error: messages.append(str(error)))
  opened.on("request", lambda request: requests.append(request.url))
  opened.goto(path.as_uri(), wait_until="load")
  pictures = opened.evaluate(
    "Array.from(document.images).map(image => [image.alt, image.complete && image.naturalWidth])"
  )
  assert all(width > 0 for _, width in pictures), pictures
  assert messages == []
  assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
  return opened, [name for name, _ in pictures]
