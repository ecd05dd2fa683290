"""face_recognition: dlib's HOG detector and its ResNet. One upsampling, so that it finds faces of 80 pixels or less, as the program does."""

import face_recognition

import timing


def detect(picture):
    return face_recognition.face_locations(picture, number_of_times_to_upsample=1, model="hog")


def embed(picture, face):
    return face_recognition.face_encodings(picture, [face])


if __name__ == "__main__":
    timing.run(detect, embed)
