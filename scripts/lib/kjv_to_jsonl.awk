# Turns `bible -f gen1:1-rev22:21` (Debian package bible-kjv: the King James Version, public domain; one verse a
# line, "Ge1:1 In the beginning ...") into JSON Lines, one document a book: a verse a line, an empty line between
# chapters. The books named in `valid_books` (separated by |) go into the file `valid`, the rest into `train`.
# Stops unless it meets 66 books with 31102 verses.

BEGIN {
  names = "Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|1 Samuel|2 Samuel|1 Kings|2 Kings|" \
    "1 Chronicles|2 Chronicles|Ezra|Nehemiah|Esther|Job|Psalms|Proverbs|Ecclesiastes|Song of Solomon|Isaiah|" \
    "Jeremiah|Lamentations|Ezekiel|Daniel|Hosea|Joel|Amos|Obadiah|Jonah|Micah|Nahum|Habakkuk|Zephaniah|Haggai|" \
    "Zechariah|Malachi|Matthew|Mark|Luke|John|Acts|Romans|1 Corinthians|2 Corinthians|Galatians|Ephesians|" \
    "Philippians|Colossians|1 Thessalonians|2 Thessalonians|1 Timothy|2 Timothy|Titus|Philemon|Hebrews|James|" \
    "1 Peter|2 Peter|1 John|2 John|3 John|Jude|Revelation"
  expected_books = split(names, name, "|")
  n = split(valid_books, list, "|")
  for (i = 1; i <= n; ++i) is_valid[list[i]] = 1
}

{
  if (!match($1, /[0-9]+:[0-9]+$/)) stop("line " NR " does not begin with a verse's reference: " $0)
  this_book = substr($1, 1, RSTART - 1)
  split(substr($1, RSTART), at, ":")
  if (this_book != book) {
    write_book()
    book = this_book
    ++books
  } else {
    text = text (at[1] == chapter ? "\\n" : "\\n\\n")
  }
  chapter = at[1]
  verse = substr($0, length($1) + 2)
  if (verse ~ /["\\[:cntrl:]]/) stop("line " NR " holds a character that JSON would need escaped: " $0)
  text = text verse
  ++verses
}

END {
  if (stopped) exit 1
  write_book()
  if (books != expected_books || verses != 31102)
    stop(books " books with " verses " verses; " expected_books " with 31102 were expected")
}

function write_book() {
  if (books == 0) return
  printf "{\"id\": \"%s\", \"text\": \"%s\\n\"}\n", name[books], text > (name[books] in is_valid ? valid : train)
  text = ""
}

function stop(message) {
  print "kjv_to_jsonl.awk: " message > "/dev/stderr"
  stopped = 1
  exit 1
}
