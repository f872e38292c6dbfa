"""Reading a page as text: fetched behind the guard, extracted apart, shown in pages or passages."""
