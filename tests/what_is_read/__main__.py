from tests.what_is_read import PAGE, page

PAGE.write_text(page(), encoding="utf-8")
