"""The commands of ``laconic``, one thin file each."""
